"""How a run ends: clean up, wait for what may have to be undone, compensate, close."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from romancy.core.calls import ActivityCall, WorkflowCall
from romancy.core.events import EventKind, Note
from romancy.core.failures import Failure, encode_failure, failure_of, recorded_failure
from romancy.core.records import Status
from romancy.errors import (
    CodecError,
    DefinitionError,
    NondeterminismError,
    NotInWorkflowError,
    OutsideWorkflowError,
    PayloadTooLargeError,
)
from romancy.replay.suspend import SuspendKind, members_of

if TYPE_CHECKING:
    from romancy.replay.execution import Execution

BUGS = (
    NameError,
    AttributeError,
    ImportError,
    TypeError,
    NotInWorkflowError,
    OutsideWorkflowError,
    NondeterminismError,
    DefinitionError,
    CodecError,
    PayloadTooLargeError,
)
"""What workflow code raises by mistake: a bad deploy must not compensate every customer."""


class Closing(NamedTuple):
    """How a run ended: the instance's status, the event that says so, and the call that recur goes on with."""

    status: Status
    note: Note
    next_call: WorkflowCall[object] | None = None


class Closer:
    """Take a run from the end of its root task to its closing.

    When the root task ends, the other tasks are cancelled in the order of their creation and waited for, then
    generators are closed in the order of their first iteration. A run that failed or was cancelled then waits
    for activities in flight that have a compensation, and runs the armed compensations in reverse order.
    """

    def __init__(self, execution: Execution) -> None:
        self._run = execution
        self._ending: asyncio.Task[None] | None = None
        self._undoing: asyncio.Task[None] | None = None
        self._settling: asyncio.Future[None] | None = None
        self._failure: Failure | None = None
        self._compensation_failures: list[Failure] = []

    def advance(self) -> None:
        """Go on as far as is possible after a drain."""
        run = self._run
        loop, root = run.loop, run.root
        if loop.poison is not None:
            if loop.poison.kind is SuspendKind.RECUR and run.closing is None:
                run.closing = self._recurred()
            return
        if root is None or not root.done() or run.closing is not None:
            return
        if self._ending is None and self._undoing is None and self._has_leftovers():
            self._ending = loop.spawn(self._end(), "end", "end")
            loop.drain()
        if self._ending is not None and not self._ending.done():
            return
        if self._failure is None:
            if root.cancelled() or root.exception() is not None:
                self._failure = self._failed(root)
            else:
                end = self._completed(root.result())
                if isinstance(end, Closing):
                    run.closing = end
                    return
                self._failure = end
        if self._is_undone():
            run.closing = self._failed_closing(self._failure)

    def _is_undone(self) -> bool:
        """Begin to compensate if there is something to, and tell whether nothing is left to."""
        loop = self._run.loop
        if self._undoing is None and self._has_to_undo():
            self._undoing = loop.spawn(self._undo(), "undo", "undo")
            loop.drain()
        return self._undoing is None or self._undoing.done()

    @property
    def is_over(self) -> bool:
        """Whether the run has completed and nothing of it is left to unwind."""
        closing = self._run.closing
        is_completed = closing is not None and closing.status is Status.COMPLETED
        return is_completed and all(task.done() for task in self._run.loop.tasks)

    def settled(self) -> None:
        """Note that an activity in flight has ended."""
        if self._settling is not None and not self._settling.done() and not self._run.operations.has_undoable():
            self._settling.set_result(None)

    def _has_leftovers(self) -> bool:
        loop = self._run.loop
        return any(not task.done() for task in loop.tasks) or any(g.ag_frame is not None for g in loop.generators)

    async def _end(self) -> None:
        loop = self._run.loop
        me: object = asyncio.current_task()
        cancelled: set[asyncio.Task[Any]] = set()
        while left := [task for task in loop.tasks if task is not me and not task.done()]:
            # Twice, if need be: what is cancelled may spawn, but is itself cancelled once.
            for task in left:
                if task not in cancelled:
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

    def _has_to_undo(self) -> bool:
        run = self._run
        for call in run.activities_in_flight():
            if call.definition.undo is None:
                run.operations.drop(call)
        return bool(run.operations.armed) or run.operations.has_undoable()

    async def _undo(self) -> None:
        run = self._run
        if run.operations.has_undoable():
            self._settling = run.loop.create_future()
            await self._settling
        armed = run.operations.armed
        while armed:
            call, result = armed.pop()
            undo = call.definition.undo
            if undo is None:
                continue
            compensation: ActivityCall[object] = ActivityCall(undo, (result, *call.args), call.kwargs)
            try:
                await compensation
            except Exception as exc:  # noqa: BLE001 - recorded and reported; the other compensations go on
                if recorded_failure(exc) is None:
                    run.fail_turn(exc)  # not the compensation's failure, but its declaration's
                failure = failure_of(exc, activity_id=compensation.activity_id)
                self._compensation_failures.append(failure)

    def _completed(self, result: object) -> Closing | Failure:
        run = self._run
        what = run.workflow.result_subject
        try:
            payload, _ = run.workflow.signature.encode_result(run.codec, result, what)
            run.check_size(payload, what)
        except (CodecError, PayloadTooLargeError) as exc:
            if not run.is_lenient:
                run.block(exc)
            return failure_of(exc)
        return Closing(Status.COMPLETED, Note(EventKind.RUN_COMPLETED, None, payload))

    def _failed(self, root: asyncio.Task[object]) -> Failure:
        """Return why the run failed or was cancelled.

        Raises:
            BaseException: A programming error, which blocks the run.
        """
        if root.cancelled():
            reason = self._run.cancel_reason or "the workflow raised CancelledError by itself"
            return msgspec.structs.replace(failure_of(_cancellation_of(root)), message=reason)
        exc = root.exception()
        if exc is None:
            msg = "the root task has not failed"
            raise RuntimeError(msg)
        if not self._run.is_lenient and _is_bug(exc):
            self._run.block(exc)
        return failure_of(exc)

    def _failed_closing(self, failure: Failure) -> Closing:
        root = self._run.root
        if self._compensation_failures:
            details = failure.details + tuple(self._compensation_failures)
            failure = msgspec.structs.replace(failure, details=details)
        is_cancelled = root is not None and root.cancelled()
        status = Status.CANCELLED if is_cancelled else Status.FAILED
        kind = EventKind.RUN_CANCELLED if is_cancelled else EventKind.RUN_FAILED
        return Closing(status, Note(kind, None, encode_failure(failure)))

    def _recurred(self) -> Closing:
        run = self._run
        signal = run.loop.poison
        call = signal.new_input if signal is not None else None
        if call is None:
            msg = "recur without a call"
            raise RuntimeError(msg)
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


def _is_bug(exc: BaseException) -> bool:
    """Tell whether workflow code raised a programming error, by itself or in a group.

    An exception that an activity raised is not one: it is marked as recorded.
    """
    return any(map(_is_bug, members_of(exc))) or (isinstance(exc, BUGS) and recorded_failure(exc) is None)
