"""The time of a PostgreSQL server, told without asking it every time."""

from __future__ import annotations

import time

from romancy.core.clock import SystemClock

_NANOSECONDS = 1000
_DRIFT = 1_000
"""One microsecond in so many is what two good clocks may differ by at most."""
_PATIENCE = 60_000_000
"""Microseconds after which an older measurement is not better for having been quicker."""


class ServerClock:
    """Tell a server's time: what it said last, and what has passed since by this machine's monotonic clock.

    So a clock that is set wrong here, or is set while we run, changes nothing. Of several measurements that whose
    answer came quickest counts, until it is a minute old or a later one shows that it is wrong: that the server's clock
    was set, or this machine slept, or the process was stopped while it measured. Before the first one it is the
    machine's clock.
    """

    def __init__(self) -> None:
        self._offset: int | None = None
        self._error = 0
        self._measured_at = 0

    def now(self) -> int:
        """Return the present instant in epoch microseconds."""
        return SystemClock().now() if self._offset is None else monotonic() + self._offset

    def measured(self, server: int, sent: int, received: int) -> None:
        """Take note of what the server has said.

        Args:
            server: Its clock, in epoch microseconds.
            sent: `monotonic` when it was asked.
            received: `monotonic` when it had answered.
        """
        error = (received - sent) // 2
        offset = server - sent - error
        age = received - self._measured_at
        if (
            self._offset is None
            or error <= self._error
            or age > _PATIENCE
            or abs(offset - self._offset) > error + self._error + age // _DRIFT
        ):
            self._offset = offset
            self._error = error
            self._measured_at = received


def monotonic() -> int:
    """Return this machine's monotonic clock, in microseconds."""
    return time.monotonic_ns() // _NANOSECONDS
