"""What is kept of ended instances, closed runs and delivered messages, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.records import KeptRun
from romancy.storage.instances import delete
from romancy.storage.sql import archives, history, instances, messages, topics

if TYPE_CHECKING:
    from romancy.storage.tx import Tx


async def kept_runs(tx: Tx, key: int, before: int, limit: int) -> list[KeptRun]:
    """Read which closed runs are kept, the newest first."""
    return [KeptRun(*row) for row in await tx.rows(archives.OF_INSTANCE, key, before, limit)]


async def prune(tx: Tx, closed_by: int, archived_by: int, delivered_by: int, limit: int) -> int:
    """Remove what has ended, was archived or was delivered by these instants; return how many rows."""
    removed = 0
    for (key,) in await tx.rows(instances.EXPIRED, closed_by, limit):
        left = limit - removed
        if left <= 0:
            return removed
        gone = await tx.run(history.DELETE_ANY, key, left)
        removed += gone
        if gone < left:
            await delete(tx, key)
            removed += 1
    for statement in (messages.DELETE_OLD_DELIVERIES, topics.DELETE_OLD_PUBLICATIONS, topics.DELETE_UNCLAIMED):
        removed += await tx.run(statement, delivered_by, max(limit - removed, 0))
    for key, run in await tx.rows(archives.EXPIRED, archived_by, limit):
        left = limit - removed
        if left <= 0:
            break
        gone = await tx.run(history.DELETE_SOME, key, run, key, run, left)
        removed += gone
        if gone < left:
            await tx.run(archives.DELETE_ONE, key, run)
            removed += 1
    return removed
