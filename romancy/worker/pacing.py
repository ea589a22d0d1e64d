"""How a worker's duties pace themselves: between two looks, and after a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import timedelta

    from romancy.storage.protocol import Storage

# In seconds.
PAUSE_AFTER_FAILURE = 0.5
SHORTEST_PAUSE = 0.01


def seconds_between_polls(storage: Storage, given: timedelta | None) -> float:
    """Return after how long to look although nothing says that something has changed; None: as the storage says."""
    return max((given or storage.poll_interval).total_seconds(), SHORTEST_PAUSE)
