"""Where time comes from."""

from __future__ import annotations

import time
from typing import Protocol

MICROSECONDS = 1_000_000


class Clock(Protocol):
    """Tell the time as epoch microseconds."""

    def now(self) -> int:
        """Return the present instant in epoch microseconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """Return the present instant in epoch microseconds."""
        return time.time_ns() // 1000


class ManualClock:
    """A clock that moves when it is told to; for tests."""

    def __init__(self, now: int = 1_700_000_000 * MICROSECONDS) -> None:
        self._now = now

    def now(self) -> int:
        """Return the instant that the clock was last set to."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock; a negative number moves it back."""
        self._now += round(seconds * MICROSECONDS)
