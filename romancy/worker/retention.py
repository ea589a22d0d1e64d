"""Removing what has been kept for long enough; a duty that one worker does for all."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from romancy.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from romancy.storage.protocol import Storage

_logger = logging.getLogger("romancy")
_BATCH = 1_000
"""Rows in one transaction: few enough that the commits of turns hardly wait for it."""
_BREATH = 0.01
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 1.0, 60.0
_FIRST_PAUSE = 5.0


async def prune(
    storage: Storage, archives: timedelta | None, messages: timedelta | None, instances: timedelta | None = None
) -> None:
    """Remove everything that is older than it has to be, in small transactions. Any number of workers may do it.

    Args:
        storage: The database.
        archives: How long the history of a run that recur has closed is kept; None: for ever.
        messages: How long the id of a delivered message is kept; None: for ever.
        instances: How long an instance that has ended is kept; None: for ever.
    """
    while True:
        removed = await storage.prune(instances=instances, archives=archives, deliveries=messages, limit=_BATCH)
        if removed < _BATCH:
            return
        await asyncio.sleep(_BREATH)


async def keep_pruning(
    storage: Storage,
    *,
    archives: timedelta | None,
    messages: timedelta | None,
    instances: timedelta | None,
    is_on_duty: Callable[[], bool],
) -> None:
    """Prune while on duty, at most once a second and at least once a minute."""
    ages = [kept.total_seconds() for kept in (archives, messages, instances) if kept is not None]
    interval = min(max(min(ages, default=0.0) / 10, _SHORTEST_INTERVAL), _LONGEST_INTERVAL)
    await asyncio.sleep(min(interval, _FIRST_PAUSE))
    while True:
        try:
            if is_on_duty():
                await prune(storage, archives, messages, instances)
        except StorageError as exc:
            _logger.warning("removing what is too old failed, trying again: %s", exc)
        await asyncio.sleep(interval)
