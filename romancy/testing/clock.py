"""Clocks that a test moves."""

from __future__ import annotations

from typing import Protocol

from romancy.core.clock import MICROSECONDS, Clock, SystemClock


class AdjustableClock(Clock, Protocol):
    """Tell a time that a test can move. Whether time passes by itself, too, is the clock's own affair."""

    def advance(self, seconds: float) -> None:
        """Move the clock; a negative number moves it back."""
        ...


class ShiftedClock:
    """Tell the time of another clock, by default the machine's, moved by what a test says: it goes on by itself.

    Attributes:
        offset: By how much the clock has been moved, in microseconds.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.offset = 0

    def now(self) -> int:
        """Return the present instant in epoch microseconds, as moved so far."""
        return self._clock.now() + self.offset

    def advance(self, seconds: float) -> None:
        """Move the clock; a negative number moves it back."""
        self.offset += round(seconds * MICROSECONDS)
