"""Closing a run and opening the next under the same id."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from romancy.core.calls import WorkflowCall
from romancy.replay.context import current_execution, unfinished_tasks
from romancy.replay.suspend import SuspendKind, SuspendSignal

if TYPE_CHECKING:
    from romancy.core.calls import Call


def recur(call: Call[object], *, compensate: bool = False) -> NoReturn:
    """Close this run and open the next with fresh history, in one commit.

    Unread messages stay.

    Args:
        call: The workflow and its new arguments.
        compensate: Undo everything that has a compensation first, as if the run had failed; else what is armed is
            dropped. If the run is asked to cancel while it compensates, it is cancelled and opens no other.

    Raises:
        SuspendSignal: Always, if nothing is unfinished; let it pass.
        CodecError: The new arguments don't fit the workflow.
        RuntimeError: Tasks or activities of the run are unfinished; the message names them.
        TypeError: Not the call of a workflow.
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("recur()")
    if not isinstance(call, WorkflowCall):
        msg = f"recur({call!r}) needs the call of a workflow, such as recur(poll(cursor))"
        raise TypeError(msg)
    call.close()
    left = [f"task {name}" for name in unfinished_tasks(execution)]
    left += [f"activity {pending.activity_id}" for pending in execution.activities_in_flight()]
    if left:
        msg = f"recur() of instance {execution.instance_id!r} with unfinished work: {', '.join(left)}"
        raise RuntimeError(msg)
    definition = call.definition
    payload = definition.signature.bind_encode(execution.codec, call.args, call.kwargs, definition.arguments_subject)
    execution.check_size(payload, definition.arguments_subject)
    execution.undoing.is_due = compensate
    signal = SuspendSignal(SuspendKind.RECUR, instance_id=execution.instance_id, new_input=call)
    execution.loop.poison = signal
    raise signal
