"""Bringing a claimed run to where its history ends, and to what of it is to be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from romancy.core.commands import CancelActivity, RunActivity
from romancy.core.events import ActivityAnswered
from romancy.core.failures import Failure, failure_of
from romancy.replay.journal import note_of
from romancy.replay.loop import TurnInterrupted
from romancy.replay.operations import is_result
from romancy.worker.build import runtime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.core.commands import Command
    from romancy.core.events import Arrival, Release
    from romancy.replay.guard import Guard
    from romancy.worker.hot import HotRun

_CAN_NOT_GO_ON = (Exception, TurnInterrupted, SystemExit)
"""What a replay may raise: changed code may fail, in any way, before it comes to the end of what is recorded."""


def load(run: HotRun, *, max_recoveries: int, guard: Guard | None) -> Failure | None:
    """Replay a claimed run's history, once; return why it can't go on, if it can't."""
    claim = run.claim
    run.claim = None
    run.is_loaded = True
    if claim is None:
        return None
    instance = claim.instance
    if instance.recoveries >= max_recoveries:
        message = (
            f"its worker has died {instance.recoveries} times while it was under way (max_recoveries): "
            "see what kills the process, then deploy another build or retry it"
        )
        return Failure(type="romancy:RecoveryLimit", message=message)
    try:
        run.recorded = run.execution.replay(
            claim.history, drained_seq=instance.drained_seq, started_at=run.started_at, guard=guard
        )
    except _CAN_NOT_GO_ON as exc:
        failure = failure_of(exc)
        if instance.runtime in {None, runtime()}:
            return failure
        message = f"{failure.message} (recorded on {instance.runtime}, replayed on {runtime()})"
        return msgspec.structs.replace(failure, message=message)
    return None


def unanswered(run: HotRun) -> list[RunActivity]:
    """Return the activities whose attempt is under way, though no body of it runs here and it has no outcome.

    Nor has it one in the turn that is yet to be computed, or in what has arrived: its body may have ended when no turn
    could be computed, and somebody outside may have answered before the body had ended.
    """
    releases: list[Release] = [] if run.recorded is None else run.recorded.releases
    answered = {note_of(release).activity_id for release in releases}
    for *_, arrival in run.arrivals:
        if is_result(arrival):
            answered.add(arrival.activity_id)
        elif isinstance(arrival, ActivityAnswered) and (call := run.execution.operations.answered_by(arrival)):
            answered.add(call.activity_id)
    return [
        command
        for command in run.execution.outstanding()
        if command.activity_id not in answered and command.activity_id not in run.bodies
    ]


def without_stale_results(
    arrivals: list[tuple[int, int, int, Arrival]], commands: Iterable[Command]
) -> list[tuple[int, int, int, Arrival]]:
    """Return what has arrived without the results of attempts that a turn has ended.

    Somebody outside has answered them, or the workflow has withdrawn them, while their bodies ended: what they ended
    in must be neither released to the next attempt nor recorded.
    """
    ended = {
        command.activity_id
        for command in commands
        if isinstance(command, CancelActivity) or (isinstance(command, RunActivity) and command.attempt > 1)
    }
    if not ended:
        return arrivals
    return [arrival for arrival in arrivals if not (is_result(arrival[3]) and arrival[3].activity_id in ended)]
