"""What ends a run from outside: cancel requests with their grace, and its own time limit."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

import msgspec

from romancy.core.clock import MICROSECONDS
from romancy.core.events import TIME_LIMIT, Cancellation, CancelRequested
from romancy.replay.futures import ReplayTimerHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    from romancy.replay.closing import Closer
    from romancy.replay.execution import Execution

_GRACE = "grace@1"
NO_REASON = "no reason given"
"""What is told of a cancel that came without one."""
_cancellation: msgspec.json.Decoder[str | Cancellation] = msgspec.json.Decoder(str | Cancellation)


class Limits:
    """Cancel a run when it is asked to or out of time, each once; give it up when its grace is over.

    Both limits are durable timers of the run, with ids that no code can ask for.

    Attributes:
        cancels: How many cancel requests were released.
        reason: Why the run was asked to cancel, the first time.
        is_out_of_time: Whether the run's time limit was reached before its code had ended.
    """

    __slots__ = ("_closer", "_grace", "_limit", "_run", "cancels", "is_out_of_time", "reason")

    def __init__(self, run: Execution, closer: Closer) -> None:
        """Set the run's time limit, if it has one."""
        self._run = run
        self._closer = closer
        self._grace: ReplayTimerHandle | None = None
        self._limit = None if run.deadline is None else self._timer(TIME_LIMIT, run.deadline, self._run_out)
        self.cancels = 0
        self.reason: str | None = None
        self.is_out_of_time = False

    def cancel(self, release: CancelRequested) -> None:
        """Cancel the root task, the first time; note how long the run may take to end, if that is limited."""
        run = self._run
        wish = _cancellation.decode(release.reason)
        reason = wish if isinstance(wish, str) else wish.reason
        self.cancels += 1
        if isinstance(wish, Cancellation):
            self._set_grace(wish.grace)
        if self.reason is None and run.root is not None:
            self.reason = reason
            if not self.is_out_of_time:  # it is ending already
                run.root.cancel(reason or None)

    def code_ended(self) -> None:
        """Note that the code is at its end: undoing what it did takes as long as it takes."""
        if self._limit is not None:
            self._run.timers.discard(self._limit)
            self._limit = None

    def _set_grace(self, grace: int) -> None:
        timers = self._run.timers
        deadline = self._run.loop.stamp + grace
        if self._grace is not None:
            if self._grace.deadline <= deadline:
                return
            timers.discard(self._grace)
        self._grace = self._timer(_GRACE, deadline, self._end_grace)

    def _timer(self, timer_id: str, deadline: int, callback: Callable[[], None]) -> ReplayTimerHandle:
        run = self._run
        handle = ReplayTimerHandle(deadline / MICROSECONDS, callback, (), run.loop, contextvars.Context())
        handle.timer_id = timer_id
        handle.deadline = deadline
        run.timers.add(handle)
        return handle

    def _run_out(self) -> None:
        root = self._run.root
        self._limit = None
        if root is not None and not root.done():
            self.is_out_of_time = True
            root.cancel("the run's time limit is reached")

    def _end_grace(self) -> None:
        reason = self.reason or NO_REASON
        self._closer.give_up(f"it was cancelled ({reason}) and did not end within the grace time")
