"""What is kept of closed runs and delivered messages, and for how long, on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.records import KeptRun
from romancy.storage.sql import archives, history, messages, topics

if TYPE_CHECKING:
    import sqlite3


def kept_runs(connection: sqlite3.Connection, key: int, before: int, limit: int) -> list[KeptRun]:
    """Read which closed runs are kept, the newest first."""
    return [KeptRun(*row) for row in connection.execute(archives.OF_INSTANCE, (key, before, limit))]


def prune(connection: sqlite3.Connection, archived_by: int, delivered_by: int, limit: int) -> int:
    """Remove what was archived or delivered by these instants, within a transaction; return how many rows."""
    removed = 0
    for statement in (messages.DELETE_OLD_DELIVERIES, topics.DELETE_OLD_PUBLICATIONS, topics.DELETE_UNCLAIMED):
        removed += connection.execute(statement, (delivered_by, limit - removed)).rowcount
    expired = connection.execute(archives.EXPIRED, (archived_by, limit)).fetchall()
    for place in expired:
        left = limit - removed
        if left <= 0:
            break
        gone = connection.execute(history.DELETE_SOME, (*place, *place, left)).rowcount
        removed += gone
        if gone < left:
            connection.execute(archives.DELETE_ONE, place)
            removed += 1
    return removed
