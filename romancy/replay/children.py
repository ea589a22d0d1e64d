"""The children of a run: asked for, withdrawn, and ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from romancy.core.codec import check_size
from romancy.core.events import ChildEnd
from romancy.core.failures import decode_failure, exception_of
from romancy.core.records import Status
from romancy.core.requests import ChildOutcome, ParentClosePolicy, StartChild
from romancy.errors import ChildWorkflowFailedError, InstanceAlreadyExistsError

if TYPE_CHECKING:
    import asyncio

    from romancy.core.calls import WorkflowCall
    from romancy.core.definitions import Workflow
    from romancy.core.events import ChildClosed
    from romancy.replay.execution import Execution

_end = msgspec.json.Decoder(ChildEnd)


class Child:
    """A child that was started, or attached to, without being awaited: what, since when, and the future of its end."""

    __slots__ = ("closed", "definition", "id", "since")

    def __init__(self, id: str, definition: Workflow[..., Any], closed: asyncio.Future[object], since: int) -> None:
        self.id = id
        self.definition = definition
        self.closed = closed
        self.since = since


class Children:
    """Keep the children that the code holds a handle on, and make something of the ends of all.

    Attributes:
        held: The children that were started by `start_child`, by activity id; those that have ended stay.
    """

    __slots__ = ("_run", "held")

    def __init__(self, run: Execution) -> None:
        self._run = run
        self.held: dict[str, Child] = {}

    def request(
        self,
        call: WorkflowCall[object],
        activity_id: str,
        *,
        id: str | None = None,
        policy: ParentClosePolicy = ParentClosePolicy.CANCEL,
        is_attaching: bool = False,
    ) -> StartChild:
        """Return what a child is asked for with; its id derives from the activity's unless one is given.

        Raises:
            CodecError: An argument can't be encoded or does not fit.
            PayloadTooLargeError: The arguments are over the limit.
            TypeError: The workflow can't be called like this.
        """
        run = self._run
        definition = call.definition
        subject = definition.arguments_subject
        payload = definition.signature.bind_encode(run.codec, call.args, call.kwargs, subject)
        check_size(payload, run.payload_limit, subject)
        call.child_id = id or run.names.child_id(activity_id)
        execution_id = run.names.child_number(activity_id)
        return StartChild(
            activity_id,
            call.child_id,
            execution_id,
            definition.name,
            definition.version,
            payload,
            policy,
            is_attaching,
            None if run.trace is None else run.trace.child(execution_id).encode(),
        )

    def hold(self, activity_id: str, id: str, definition: Workflow[..., Any]) -> Child:
        """Keep a child that has been started, so that its end is kept too."""
        child = self.held[activity_id] = Child(id, definition, self._run.loop.create_future(), self._run.loop.stamp)
        return child

    def close_held(self, release: ChildClosed) -> bool:
        """Note the end of a child that the code holds; False if it holds none under that id."""
        child = self.held.get(release.activity_id)
        if child is None or child.closed.done():
            return False
        settle(child.closed, *self.outcome(child.id, child.definition, release))
        child.closed.exception()  # so that asyncio does not report a failure that nobody asks for
        return True

    def is_of_this_run(self, release: ChildClosed) -> bool:
        """Tell whether a child was started by this run, and not by an earlier one of the instance."""
        return _end.decode(release.end).run == self._run.run

    def outcome(
        self, id: str, definition: Workflow[..., Any], release: ChildClosed
    ) -> tuple[object, ChildWorkflowFailedError | None]:
        """Return a child's result, or the error that tells of its end."""
        end = _end.decode(release.end)
        payload = bytes(end.payload)
        status = Status(end.status)
        if status is Status.COMPLETED:
            return definition.signature.decode_result(self._run.codec, payload, definition.result_subject), None
        failure = None if payload == b"null" else decode_failure(payload)
        name = status.name.lower()
        told = "no reason" if failure is None else f"{failure.type.partition(':')[2]}: {failure.message}"
        error = ChildWorkflowFailedError(f"child {id!r} {name.replace('_', ' ')}: {told}", id, name, failure)
        if failure is not None:
            error.__cause__ = exception_of(failure)
        return None, error


def settle(future: asyncio.Future[object], value: object, error: BaseException | None) -> None:
    """Give a future its outcome, unless it was cancelled meanwhile."""
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def check_started(outcome: bytes, call: WorkflowCall[object]) -> None:
    """Raise `InstanceAlreadyExistsError` if a child could not be started because its id is taken."""
    if int(outcome) == ChildOutcome.EXISTS:
        msg = (
            f"child {call.child_id!r} of workflow {call.definition.name!r} can't be started: the id is taken; "
            'choose another, or attach to the instance with start_child(..., on_conflict="attach")'
        )
        raise InstanceAlreadyExistsError(msg)
