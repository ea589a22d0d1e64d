"""How a run ends: clean up, wait for what may have to be undone, compensate, close."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from romancy.core.calls import WorkflowCall
from romancy.core.events import EventKind, Note
from romancy.core.failures import Failure, encode_failure, failure_of, with_undoing
from romancy.core.records import Status
from romancy.errors import CodecError, PayloadTooLargeError
from romancy.replay import eviction
from romancy.replay.bugs import is_bug
from romancy.replay.ids import UNDOING
from romancy.replay.limits import NO_REASON
from romancy.replay.suspend import SuspendKind

if TYPE_CHECKING:
    from romancy.replay.execution import Execution

_FAILED: dict[Status, EventKind] = {
    Status.FAILED: EventKind.RUN_FAILED,
    Status.CANCELLED: EventKind.RUN_CANCELLED,
    Status.TIMED_OUT: EventKind.RUN_TIMED_OUT,
    Status.TERMINATED: EventKind.RUN_TERMINATED,
}


class Closing(NamedTuple):
    """How a run ended: the instance's status, the event that says so, and the call that recur goes on with."""

    status: Status
    note: Note
    next_call: WorkflowCall[object] | None = None


class Closer:
    """Take a run from the end of its root task to its closing.

    When the root task ends, the other tasks are cancelled in the order of their creation and waited for, then
    generators are closed in the order of their first iteration. A run that failed, was cancelled or ran out of time
    then waits for activities in flight that have a compensation, and runs the armed compensations in reverse order.
    """

    def __init__(self, execution: Execution) -> None:
        self._run = execution
        self._ending: asyncio.Task[None] | None = None
        self._undoing: asyncio.Task[None] | None = None
        self._end: Closing | tuple[Status, Failure] | None = None
        self._next_call: WorkflowCall[object] | None = None
        self._cancels_before = 0

    def advance(self) -> None:
        """Go on as far as is possible after a drain."""
        run = self._run
        poison, root = run.loop.poison, run.root
        if run.closing is not None:
            return
        if poison is not None:
            if poison.kind is SuspendKind.RECUR:
                self._recur()
        elif self._next_call is not None:
            self._recur()
        elif root is not None and root.done():
            run.limits.code_ended()
            self._close(root)

    def _close(self, root: asyncio.Task[object]) -> None:
        run = self._run
        if self._end is None:
            self._end = self._end_of(root)  # first: what is blocked must not have cleaned up
        if self._ending is None and self._undoing is None and self._has_leftovers():
            self._begin_ending(root)
        if self._ending is not None and not self._ending.done():
            return
        if isinstance(self._end, Closing):
            run.closing = self._end
        elif self._is_undone():
            run.closing = self._failed_closing(*self._end)

    def give_up(self, reason: str) -> None:
        """End the run as terminated: nothing of it goes on, and what is not undone yet stays."""
        run = self._run
        if run.closing is None:
            left = ", ".join(armed.call.activity_id for armed in run.undoing.armed.values())
            message = f"{reason}; not undone: {left}" if left else reason
            failure = Failure("romancy.errors:WorkflowTerminatedError", message)
            run.operations.retract_requests()
            run.closing = self._failed_closing(Status.TERMINATED, failure)

    @property
    def is_over(self) -> bool:
        """Whether the run has completed and nothing of it is left to unwind."""
        closing = self._run.closing
        is_completed = closing is not None and closing.status is Status.COMPLETED
        return is_completed and all(task.done() for task in self._run.loop.tasks)

    # -- leftovers --------------------------------------------------------------------------------------

    def _has_leftovers(self) -> bool:
        loop = self._run.loop
        return any(not task.done() for task in loop.tasks) or any(g.ag_frame is not None for g in loop.generators)

    def _begin_ending(self, root: asyncio.Task[object]) -> None:
        loop = self._run.loop
        is_undoing = self._run.undoing.is_one_of
        left = [
            f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', task.get_coro())})"
            for task in loop.tasks
            if not task.done() and task.transparent_of is None and not is_undoing(task)
        ]
        if left and not root.cancelled() and root.exception() is None:
            loop.warn(
                f"the workflow has returned with unfinished tasks, which are cancelled: {', '.join(left)}; "
                "await them, or cancel them where they are not needed any more"
            )
        self._ending = loop.spawn(self._end_leftovers(), "end", "end")
        loop.drain()

    async def _end_leftovers(self) -> None:
        loop = self._run.loop
        me: object = asyncio.current_task()
        cancelled: set[asyncio.Task[Any]] = set()
        while left := [task for task in loop.tasks if task is not me and not task.done()]:
            # Twice, if need be: what is cancelled may spawn, but is itself cancelled once.
            for task in left:
                if task not in cancelled and not self._run.undoing.is_one_of(task):
                    cancelled.add(task)
                    task.cancel()
                    task.add_done_callback(_retrieve)
            await asyncio.wait(left)
        while loop.generators:
            generator = loop.generators.pop(0)
            try:
                await generator.aclose()
            except (Exception, asyncio.CancelledError) as exc:  # noqa: BLE001 - as asyncio does: the others are closed too
                loop.call_exception_handler(
                    {"message": "closing an async generator failed", "exception": exc, "asyncgen": generator}
                )

    # -- undoing ----------------------------------------------------------------------------------------

    def _is_undone(self) -> bool:
        """Begin to compensate if there is something to, and tell whether nothing is left to."""
        run = self._run
        if self._undoing is None:
            for call in run.activities_in_flight():
                if call.definition.undo is None:
                    run.operations.drop(call)
            if run.undoing.has_work():
                self._undoing = run.loop.spawn(run.undoing.undo(), UNDOING, "undo")
                run.loop.drain()
        return self._undoing is None or self._undoing.done()

    # -- how it ended -----------------------------------------------------------------------------------

    def _end_of(self, root: asyncio.Task[object]) -> Closing | tuple[Status, Failure]:
        """Return how a run ended whose code has: as completed, or with what failure.

        Raises:
            RunBlocked: By a programming error.
        """
        run = self._run
        exc = None if root.cancelled() else root.exception()
        if exc is not None and not run.is_lenient and is_bug(exc):
            run.block(exc)
        if run.limits.is_out_of_time:
            return Status.TIMED_OUT, self._timed_out(exc)
        if root.cancelled():
            asked = run.limits.reason  # "" is a cancel too
            reason = "the workflow raised CancelledError by itself" if asked is None else asked or NO_REASON
            return Status.CANCELLED, msgspec.structs.replace(failure_of(_cancellation_of(root)), message=reason)
        if exc is not None:
            return Status.FAILED, failure_of(exc)
        return self._completed(root.result())

    def _completed(self, result: object) -> Closing | tuple[Status, Failure]:
        run = self._run
        what = run.workflow.result_subject
        try:
            payload, _ = run.workflow.signature.encode_result(run.codec, result, what)
            run.check_size(payload, what)
        except (CodecError, PayloadTooLargeError) as exc:
            if not run.is_lenient:
                run.block(exc)
            return Status.FAILED, failure_of(exc)
        return Closing(Status.COMPLETED, Note(EventKind.RUN_COMPLETED, None, payload))

    def _timed_out(self, exc: BaseException | None) -> Failure:
        """Return the failure of a run that was out of time, whatever its code has made of that."""
        limit = self._run.instant(self._run.deadline or 0)
        message = f"the run's time limit was reached at {limit.isoformat()}, before its code had ended"
        cause = None if exc is None else failure_of(exc)
        return Failure("romancy.errors:WorkflowTimedOutError", message, cause=cause)

    def _failed_closing(self, status: Status, failure: Failure) -> Closing:
        failure = with_undoing(failure, self._run.undoing.report())
        return Closing(status, Note(_FAILED[status], None, encode_failure(failure)))

    # -- recur ------------------------------------------------------------------------------------------

    def _recur(self) -> None:
        """Close the run that has called recur; if it is to be undone before, as soon as that is done.

        One that is out of time opens no other: it ends like one that has failed.
        """
        run = self._run
        if self._next_call is None:
            signal = run.loop.poison
            call = signal.new_input if signal is not None else None
            if call is None:
                msg = "recur without a call"
                raise RuntimeError(msg)
            is_late = run.limits.is_out_of_time
            if not is_late and not (run.undoing.is_due and run.undoing.has_work()):
                run.closing = self._recurred(call)
                return
            eviction.end_hanging(run.loop)  # of the code nothing may go on, even if it has swallowed the signal
            run.loop.poison = None
            run.limits.code_ended()
            if is_late and run.root is not None:
                self._end = Status.TIMED_OUT, self._timed_out(None)
                self._close(run.root)
                return
            self._next_call = call
            self._cancels_before = run.limits.cancels
        if self._is_undone():
            run.closing = self._undone_recurred(self._next_call)

    def _undone_recurred(self, call: WorkflowCall[object]) -> Closing:
        """Open the next run now that everything is undone; not if the run was asked to cancel meanwhile."""
        run = self._run
        if run.limits.cancels > self._cancels_before:
            reason = run.limits.reason or "cancelled before recur"
            return self._failed_closing(Status.CANCELLED, Failure("asyncio.exceptions:CancelledError", reason))
        for failure in run.undoing.report():
            run.loop.warn(f"while the run was undone before recur: {failure.message}")
        return self._recurred(call)

    def _recurred(self, call: WorkflowCall[object]) -> Closing:
        run = self._run
        definition = call.definition
        what = definition.arguments_subject
        payload = definition.signature.bind_encode(run.codec, call.args, call.kwargs, what)
        run.check_size(payload, what)
        return Closing(Status.RUNNING, Note(EventKind.RUN_RECURRED, None, payload), call)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Take note of a cancelled task's failure, so that asyncio does not report it: nobody can await it any more."""
    if not task.cancelled():
        task.exception()


def _cancellation_of(task: asyncio.Task[object]) -> asyncio.CancelledError:
    try:
        task.result()
    except asyncio.CancelledError as exc:
        return exc
    msg = f"{task!r} was not cancelled"
    raise RuntimeError(msg)
