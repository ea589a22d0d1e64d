"""One heap of deadlines per process."""

from __future__ import annotations

import asyncio
import heapq
from typing import TYPE_CHECKING

from romancy.core.clock import MICROSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from romancy.core.clock import Clock

_SLACK = 64
_LONGEST_WAIT = 30.0
"""Seconds after which the clock is read again: it may have been set, or the machine have slept."""


class Alarms:
    """Call back when the clock has passed a deadline; an alarm may ring too often, but not too seldom."""

    def __init__(self, clock: Clock, ring: Callable[[int], None]) -> None:
        """Prepare.

        Args:
            clock: What the deadlines are compared with.
            ring: Called with an alarm's key.
        """
        self._clock = clock
        self._ring = ring
        self._heap: list[tuple[int, int]] = []
        self._deadlines: dict[int, int] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._handle_at = 0

    def set(self, deadline: int, key: int) -> None:
        """Ring for a key at a deadline, in epoch microseconds; a key has one deadline, the last that was set."""
        self._deadlines[key] = deadline
        heapq.heappush(self._heap, (deadline, key))
        if len(self._heap) > 2 * len(self._deadlines) + _SLACK:
            self._heap = [(at, key) for key, at in self._deadlines.items()]
            heapq.heapify(self._heap)
        if self._handle is None or deadline < self._handle_at:
            self._schedule()

    def cancel(self, key: int) -> None:
        """Forget a key's deadline."""
        self._deadlines.pop(key, None)

    def next(self) -> int | None:
        """Return the earliest deadline, in epoch microseconds; None: there is none."""
        return min(self._deadlines.values(), default=None)

    def poll(self) -> None:
        """Ring for all keys whose deadline has passed."""
        now = self._clock.now()
        heap = self._heap
        rung: list[int] = []
        while heap and heap[0][0] <= now:
            deadline, key = heapq.heappop(heap)
            if self._deadlines.get(key) == deadline:
                del self._deadlines[key]
                rung.append(key)
        self._handle = None
        try:
            for key in rung:
                self._ring(key)
        finally:
            self._schedule()

    def clear(self) -> None:
        """Forget all deadlines."""
        self._heap.clear()
        self._deadlines.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _schedule(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._heap:
            self._handle_at = self._heap[0][0]
            delay = (self._handle_at - self._clock.now()) / MICROSECONDS
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(min(max(delay, 0.0), _LONGEST_WAIT), self.poll)
