"""Undoing a part of a workflow, and arming what is no activity's compensation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, cast

from romancy.core.calls import ActivityCall, Call, WorkflowCall
from romancy.core.codec import check_size
from romancy.replay.bugs import is_bug
from romancy.replay.context import current_execution
from romancy.replay.suspend import is_suspend_signal, members_of
from romancy.replay.undoing import Block, current_block

if TYPE_CHECKING:
    from types import TracebackType

    from romancy.errors import CompensationError
    from romancy.replay.execution import Execution


class Saga:
    """A part of a workflow that is undone on its own when an exception leaves it; made by `saga`."""

    def __init__(self, execution: Execution) -> None:
        self._run = execution
        self._block: Block | None = None

    @property
    def failures(self) -> list[CompensationError]:
        """The block's compensations that failed for good, in the order in which they were tried."""
        return [] if self._block is None else list(self._block.failures)

    async def __aenter__(self) -> Self:
        if self._block is not None:
            msg = "a saga block can be entered once: call saga() again"
            raise RuntimeError(msg)
        self._run.undoing.has_blocks = True
        self._block = Block(current_block.get())
        current_block.set(self._block)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block, run = self._block, self._run
        if block is None:
            msg = "a saga block was left that had not been entered"
            raise RuntimeError(msg)
        current_block.set(block.parent)
        if exc is None or not _is_failure(exc) or is_suspend_signal(exc) or run.is_poisoned:
            return
        if not run.is_lenient and is_bug(exc):
            run.fail_turn(exc)
        await run.undoing.undo_block(block, is_cancelled=isinstance(exc, asyncio.CancelledError))


def saga() -> Saga:
    """Open a block whose work is undone when an exception leaves it.

    Use it as ``async with saga() as block:``. Before the exception goes on, activities in flight that were called in
    the block and have a compensation are waited for, and what is armed in the block runs: last armed first, recorded,
    with retries. Calls belong to the innermost block around the place where they are made, also in tasks that are made
    in it. Blocks within the block belong to it.

    A task that goes on after the block has failed, as gather's do, is waited for as long as it calls what has a
    compensation: what it does is undone too. When the block is cancelled, or that comes while it is undone, this ends:
    what such a task calls from then on belongs to the block around it, or the run.

    What was done in a block that ends well stays armed: it is undone when a block around it fails, or the run.
    A compensation that fails for good does not keep the others from running; see `Saga.failures`. A cancel that comes
    while a block is undone is raised when it is. Nothing is undone by `recur`, when the run leaves memory, or for a
    programming error, which blocks the run (unless ``on_bug="fail"``).

    Raises:
        OutsideWorkflowError: No workflow runs here.
    """
    return Saga(current_execution("saga()"))


def compensate_with(call: Call[object]) -> None:
    """Arm a call: it is made when what has been done so far has to be undone, after what is armed later.

    It belongs to the `saga` block around this line, if there is one. Any call will do: of an activity, of a workflow
    (which becomes a child), or of `Channel.send`. It is not awaited, and not undone itself.

    Args:
        call: ``refund(payment)``, say; made here.

    Raises:
        TypeError: Not a call.
        CodecError: An argument does not fit.
        PayloadTooLargeError: The arguments are over the limit.
        RuntimeError: The call was awaited, or armed, before.
        NotInWorkflowError: It was made in another run.
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("compensate_with()")
    if not isinstance(cast("object", call), Call):
        msg = f"compensate_with({call!r}) needs a call, such as compensate_with(refund(payment))"
        raise TypeError(msg)
    execution.refuse_if_poisoned()
    call.spend()
    if isinstance(call, ActivityCall | WorkflowCall):
        definition = call.definition
        what = definition.arguments_subject
        payload = definition.signature.bind_encode(execution.codec, call.args, call.kwargs, what)
        check_size(payload, execution.payload_limit, what)
    execution.undoing.register(call)


def _is_failure(exc: BaseException) -> bool:
    """Tell whether an exception means that the code has failed, and not that it is being stopped."""
    members = members_of(exc)
    return all(map(_is_failure, members)) if members else isinstance(exc, Exception | asyncio.CancelledError)
