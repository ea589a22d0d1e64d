"""What a run's activities wait for while nothing of them is under way in the owner's memory."""

from __future__ import annotations

import heapq
from typing import NamedTuple

_SLACK = 64
"""How many delays that are over may lie in the heap, beside as many as there are live ones."""


class Delay(NamedTuple):
    """One activity's wait; ordered by its end, and then by its beginning.

    Attributes:
        due: When it ends, in epoch microseconds; None: not by itself.
        number: Counts the delays of a run.
        activity_id: Whose it is.
        is_handed_over: It waits for an outcome from outside, and is timed out when it is due; otherwise it backs off,
            and its next attempt begins then.
    """

    due: int | None
    number: int
    activity_id: str
    is_handed_over: bool


class Delays:
    """The activities that back off or are handed over, by id and by when they are due."""

    __slots__ = ("_begun", "_by_id", "_heap")

    def __init__(self) -> None:
        self._by_id: dict[str, Delay] = {}
        self._heap: list[tuple[int, int, Delay]] = []
        self._begun = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, activity_id: str) -> bool:
        return activity_id in self._by_id

    def put(self, activity_id: str, due: int | None, *, is_handed_over: bool) -> None:
        """Let an activity wait; an earlier wait of it is over."""
        self._begun += 1
        delay = Delay(due, self._begun, activity_id, is_handed_over)
        self._by_id[activity_id] = delay
        if due is None:
            return
        heapq.heappush(self._heap, (due, delay.number, delay))
        if len(self._heap) > 2 * len(self._by_id) + _SLACK:
            self._heap = [item for item in self._heap if self._by_id.get(item[2].activity_id) is item[2]]
            heapq.heapify(self._heap)

    def discard(self, activity_id: str) -> None:
        """Forget an activity."""
        self._by_id.pop(activity_id, None)

    def is_handed_over(self, activity_id: str) -> bool:
        """Tell whether an activity's outcome comes from outside."""
        delay = self._by_id.get(activity_id)
        return delay is not None and delay.is_handed_over

    def next_due(self) -> int | None:
        """Return when the next activity is due, in epoch microseconds; None: none is by itself."""
        heap = self._heap
        while heap and self._by_id.get(heap[0][2].activity_id) is not heap[0][2]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def take_due(self, now: int) -> list[Delay]:
        """Remove and return what is due, earliest first."""
        taken: list[Delay] = []
        while (due := self.next_due()) is not None and due <= now:
            delay = heapq.heappop(self._heap)[2]
            del self._by_id[delay.activity_id]
            taken.append(delay)
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._by_id.clear()
        self._heap.clear()
