"""Starting other workflows from a workflow."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

from romancy.core.calls import Call, CallKind, RequestCall, WorkflowCall
from romancy.core.instance_ids import check_instance_id
from romancy.core.requests import OnParentClose, ParentClosePolicy
from romancy.replay.children import check_started
from romancy.replay.context import current_execution

if TYPE_CHECKING:
    from collections.abc import Generator

    from romancy.core.requests import StartChild
    from romancy.replay.children import Child
    from romancy.replay.execution import Execution

R = TypeVar("R")


class ChildHandle(Generic[R]):
    """A child that was started, from its parent's point of view. Awaiting it is waiting for its result.

    Attributes:
        id: The child's instance id; send to it with ``channel.send(message, to=handle.id)``.
    """

    def __init__(self, execution: Execution, activity_id: str, child: Child) -> None:
        self._run = execution
        self._activity_id = activity_id
        self._child = child
        self.id = child.id

    async def result(self) -> R:
        """Wait for the child's end and return its result; any number of tasks may. Cancelling the wait changes nothing.

        Raises:
            ChildWorkflowFailedError: The child ended without one; the cause is what it failed with.
        """
        return cast("R", await asyncio.shield(self._child.closed))

    def __await__(self) -> Generator[object, None, R]:
        return self.result().__await__()

    def done(self) -> bool:
        """Tell whether the child's end has reached this run."""
        return self._child.closed.done()

    def cancel(self, reason: str = "") -> None:
        """Ask the child to cancel, with this turn's commit; nothing if it has ended."""
        self._run.operations.cancel_child(self._activity_id, reason or f"cancelled by {self._run.instance_id!r}")

    def __repr__(self) -> str:
        return f"<handle on child {self.id!r}>"


class _Start(Generic[R]):
    """A child on its way: what to ask for, and what becomes of the answer."""

    def __init__(
        self, execution: Execution, call: WorkflowCall[R], id: str | None, policy: ParentClosePolicy, *, attach: bool
    ) -> None:
        self._run = execution
        self._call = cast("WorkflowCall[object]", call)
        self._id = id
        self._policy = policy
        self._is_attaching = attach
        self._activity_id = ""

    def ask(self, activity_id: str) -> StartChild:
        self._activity_id = activity_id
        return self._run.operations.children.request(
            self._call, activity_id, id=self._id, policy=self._policy, is_attaching=self._is_attaching
        )

    def read(self, outcome: bytes) -> ChildHandle[R]:
        check_started(outcome, self._call)
        child = self._run.operations.children.hold(self._activity_id, self._call.child_id, self._call.definition)
        return ChildHandle(self._run, self._activity_id, child)


def start_child(
    call: Call[R],
    *,
    id: str | None = None,
    on_parent_close: OnParentClose = "cancel",
    on_conflict: Literal["raise", "attach"] = "raise",
) -> Call[ChildHandle[R]]:
    """Start a workflow as a child of this one, and go on without waiting for it.

    ``handle = await start_child(ship(order), id="ship-7")``

    The child's row and the parent's record of it are committed together. Without ``id`` it is named after the parent
    and the operation. ``await ship(order)`` starts a child and waits for its result; when that wait is cancelled, so is
    the child.

    Args:
        call: The workflow and its arguments.
        id: The child's instance id.
        on_parent_close: What becomes of the child if this instance ends first, in whatever way: ``"cancel"`` asks it to
            cancel, ``"terminate"`` ends it (and what it has started), ``"abandon"`` leaves it alone.
        on_conflict: What if the id is taken: ``"raise"``, or ``"attach"``: take the instance that has it for the child,
            whatever its workflow is; several may be attached to one, and all hear of its end. What becomes of it when
            parents end is for the one to say that has started it: for those that are attached it is abandoned.

    Returns:
        A call; awaited, it returns a handle once the child is in the database.

    Raises:
        InstanceAlreadyExistsError: When awaited: the id is taken.
        CodecError: When awaited: an argument does not fit its annotation.
        PayloadTooLargeError: When awaited: the arguments are over the limit.
        TypeError: Not the call of a workflow.
        ValueError: There is no such policy, or the id can't be one.
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("start_child()")
    if isinstance(cast("object", call), Call):
        call.close()  # it is not to be awaited, whatever comes of it
    if not isinstance(call, WorkflowCall):
        msg = f"start_child({call!r}) needs the call of a workflow, such as start_child(ship(order))"
        raise TypeError(msg)
    if on_parent_close not in set(ParentClosePolicy):
        msg = f"on_parent_close={on_parent_close!r}: use one of {', '.join(map(repr, map(str, ParentClosePolicy)))}"
        raise ValueError(msg)
    if on_conflict not in {"raise", "attach"}:
        msg = f"on_conflict={on_conflict!r}: use 'raise' or 'attach'"
        raise ValueError(msg)
    if id is not None:
        check_instance_id(id)
    start = _Start(execution, call, id, ParentClosePolicy(on_parent_close), attach=on_conflict == "attach")
    return RequestCall(CallKind.CHILD, call.name, start.ask, start.read)
