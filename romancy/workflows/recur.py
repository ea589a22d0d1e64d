"""Closing a run and opening the next under the same id."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from romancy.core.calls import WorkflowCall
from romancy.errors import CodecError
from romancy.replay.context import current_execution, unfinished_tasks
from romancy.replay.suspend import SuspendKind, SuspendSignal

if TYPE_CHECKING:
    from romancy.core.calls import Call


def recur(call: Call[object], *, compensate: bool = False) -> NoReturn:
    """Close this run and open the next with fresh history, in one commit.

    The next run has the newest version of the called workflow that the worker has, in natural order of the versions
    (``"10"`` is newer than ``"9"``), whichever version the call names. Unread messages, tags and the custom status
    stay. The history of this run stays readable for the App's ``archive_retention``.

    Args:
        call: The workflow and its new arguments.
        compensate: Undo everything that has a compensation first, as if the run had failed; else what is armed is
            dropped. If the run is asked to cancel while it compensates, it is cancelled and opens no other.

    Raises:
        SuspendSignal: Always, if nothing is unfinished; let it pass.
        CodecError: The new arguments don't fit the newest version of the workflow.
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
    definition = execution.newest_of(call.definition)
    subject = definition.arguments_subject
    try:
        payload = definition.signature.bind_encode(execution.codec, call.args, call.kwargs, subject)
        execution.check_size(payload, subject)
    except (CodecError, TypeError) as exc:
        if definition.version == call.definition.version:
            raise
        msg = f"recur() goes on with version {definition.version!r} of workflow {call.name!r}, the newest: {exc}"
        raise type(exc)(msg) from exc
    execution.undoing.is_due = compensate
    next_call: WorkflowCall[object] = WorkflowCall(definition, call.args, call.kwargs)
    next_call.close()
    signal = SuspendSignal(SuspendKind.RECUR, instance_id=execution.instance_id, new_input=next_call)
    execution.loop.poison = signal
    raise signal
