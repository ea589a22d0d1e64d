"""Going on from a place in the past of a run that went on in another way before: a retry, or a rerun.

Invariant: whoever replays the history comes to the same state. What was asked for before that place and is answered by
nothing after it is asked for again, under the names that the run has from there on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from romancy.core.calls import ActivityCall, ReceiveCall, RequestCall, WorkflowCall
from romancy.core.events import Answered, EventKind, Resumption
from romancy.core.requests import StartChild, Wait
from romancy.replay.ids import Names

if TYPE_CHECKING:
    from romancy.core.events import Resumed
    from romancy.core.requests import Request
    from romancy.replay.execution import Execution

_resumption = msgspec.json.Decoder(Resumption)


def override(run: Execution, release: Resumed) -> None:
    """Give an activity that is asked for already the input that it is to be rerun with."""
    resumption = _resumption.decode(release.resumption)
    call = run.operations.pending.get(resumption.activity_id or "")
    if bytes(resumption.input) and isinstance(call, ActivityCall):
        call.arguments = bytes(resumption.input)


def resume(run: Execution, release: Resumed) -> None:
    """Go on from here: with new names, the outcomes that are still known, and everything else asked for again."""
    resumption = _resumption.decode(release.resumption)
    run.names = Names(resumption.seed, run.run, resumption.seed_id, resumption.mark)
    override(run, release)
    operations = run.operations
    outcomes = {outcome.activity_id: outcome for outcome in resumption.outcomes}
    for activity_id, call in list(operations.pending.items()):
        outcome = outcomes.get(activity_id)
        if isinstance(call, ReceiveCall):
            if call.is_competing:
                operations.commands[activity_id] = Wait(activity_id, call.name, call.mailbox)
        elif outcome is not None:
            operations.deliver(Answered(EventKind(outcome.kind), activity_id, outcome.payload.encode()))
        elif isinstance(call, RequestCall):
            operations.commands[activity_id] = _with_input(call.ask(activity_id), resumption)
        elif isinstance(call, WorkflowCall) and not call.is_started:
            request = operations.children.request(call, activity_id)
            operations.commands[activity_id] = _with_input(request, resumption)


def _with_input(request: Request, resumption: Resumption) -> Request:
    """Return a request with the input that a child is to be rerun with, if it is that one's."""
    if isinstance(request, StartChild) and bytes(resumption.input) and request.activity_id == resumption.activity_id:
        return msgspec.structs.replace(request, input=bytes(resumption.input))
    return request
