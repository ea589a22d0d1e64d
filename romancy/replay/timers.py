"""The durable timers of a run: by deadline, and equal deadlines in the order of their creation."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from romancy.replay.futures import ReplayTimerHandle


_SLACK = 64
"""How many cancelled timers may lie in the heap, beside as many as there are live ones."""


class DurableTimers:
    """Keep the timers that have neither fired nor been cancelled."""

    __slots__ = ("_by_id", "_created", "_heap")

    def __init__(self) -> None:
        self._by_id: dict[str, ReplayTimerHandle] = {}
        self._heap: list[tuple[int, int, ReplayTimerHandle]] = []
        self._created = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, handle: ReplayTimerHandle) -> None:
        """Keep a new timer."""
        self._created += 1
        self._by_id[handle.timer_id] = handle
        heapq.heappush(self._heap, (handle.deadline, self._created, handle))
        if len(self._heap) > 2 * len(self._by_id) + _SLACK:
            self._heap = [item for item in self._heap if self._is_live(item[2])]
            heapq.heapify(self._heap)

    def discard(self, handle: ReplayTimerHandle) -> None:
        """Forget a timer that was cancelled."""
        if self._by_id.get(handle.timer_id) is handle:
            del self._by_id[handle.timer_id]

    def take(self, timer_id: str) -> ReplayTimerHandle | None:
        """Remove and return a timer that fires; None if it was cancelled."""
        return self._by_id.pop(timer_id, None)

    def _is_live(self, handle: ReplayTimerHandle) -> bool:
        return self._by_id.get(handle.timer_id) is handle

    def next_deadline(self) -> int | None:
        """Return the earliest deadline, in epoch microseconds."""
        heap = self._heap
        while heap and not self._is_live(heap[0][2]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: int) -> list[tuple[int, str]]:
        """Return (deadline, timer id) of the timers that are due, in the order in which they fire."""
        heap = self._heap
        found: list[tuple[int, int, str]] = []
        todo = [0]
        while todo:  # a child in the heap is never due before its parent
            index = todo.pop()
            if index < len(heap) and heap[index][0] <= now:
                deadline, created, handle = heap[index]
                if self._is_live(handle):
                    found.append((deadline, created, handle.timer_id))
                todo += (2 * index + 1, 2 * index + 2)
        return [(deadline, timer_id) for deadline, _, timer_id in sorted(found)]

    def earliest(self) -> ReplayTimerHandle | None:
        """Return the timer that fires next."""
        return self._heap[0][2] if self.next_deadline() is not None else None

    def clear(self) -> None:
        """Forget everything."""
        self._by_id.clear()
        self._heap.clear()
