"""What a turn's commit says: pure functions from a turn to an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from romancy.core.calls import ActivityCall, ReceiveCall, WorkflowCall
from romancy.core.commands import CancelActivity, RunActivity
from romancy.core.failures import Failure, encode_failure
from romancy.core.records import LEAVE, Entry, NextRun, Status
from romancy.core.requests import Publish, Send, StartChild, Subscribe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.events import Note
    from romancy.core.requests import Order, Request
    from romancy.replay.execution import Execution, Turn
    from romancy.worker.hot import HotRun

_REQUESTS = frozenset({Send, Publish, Subscribe, StartChild})
_OUTSIDE = frozenset({RunActivity, CancelActivity})
_json = msgspec.json.Encoder()


def has_to_be_written(entry: Entry, run: HotRun) -> bool:
    """Tell whether an entry changes anything: one that only starts activities does not."""
    return bool(
        entry.notes
        or entry.requests
        or entry.orders
        or entry.consumed
        or entry.is_freed
        or entry.wake_at != LEAVE
        or entry.status is not Status.RUNNING
        or entry.inbox_seen > run.inbox_written
        or entry.shown is not None
    )


def is_busy_after(run: HotRun, turn: Turn, now: int) -> bool:
    """Tell whether something that only memory knows goes on once the turn is committed.

    An activity without an outcome counts, whether its body runs or not (a worker that shuts down starts none):
    only one that waits for its next attempt, or for an answer from outside, does not. What is due goes on by itself:
    a run that began anew, and was freed before its timer is released, would begin anew for ever.
    """
    if run.bodies or run.arrivals or run.execution.operations.underway:
        return True
    due = run.next_deadline()
    if due is not None and due <= now:
        return True
    return any(type(command) in _REQUESTS for command in turn.commands)


def wake_after(run: HotRun, now: int, *, is_busy: bool) -> int | None:
    """Return what the commit of a turn writes into ``wake_at``: `LEAVE` where it is right as it is.

    While something lives only in memory the column stays in the past, so that an owner's death makes the instance
    claimable at once. `UNKNOWN` stands for the past: only a message makes others write it.
    """
    if is_busy:
        is_past = run.wake_at is not None and run.wake_at <= now
        return LEAVE if is_past else now
    target = run.next_deadline()
    return LEAVE if target == run.wake_at else target


def silenced_by(run: HotRun, *, is_over: bool) -> list[str]:
    """Return the activities whose heartbeats are of no use any more: those of which no attempt is under way."""
    underway = run.execution.operations.underway
    return [activity_id for activity_id in run.beats if is_over or activity_id not in underway]


def entry_of(run: HotRun, turn: Turn, *, now: int, wake_at: int | None, is_freed: bool) -> Entry:
    """Return what a turn commits.

    Args:
        run: Whose turn it is.
        turn: What it asks for.
        now: The worker's clock.
        wake_at: When the instance is next claimable if the turn leaves it idle; `LEAVE` if it stays busy.
        is_freed: The run leaves memory with this commit.
    """
    closing = turn.closing
    requests: Sequence[Request] = ()
    orders: Sequence[Order] = ()
    asked = [command for command in turn.commands if type(command) not in _OUTSIDE]
    if asked:
        requests = cast("list[Request]", [command for command in asked if type(command) in _REQUESTS])
        orders = cast("list[Order]", [command for command in asked if type(command) not in _REQUESTS])
    # A run that is paused before its first turn: what it waits for would tell that it had begun.
    is_unbegun = run.execution.turn == 0 and not run.has_parked
    next_run = None
    status = Status.RUNNING
    if closing is not None:
        status = closing.status
        is_freed = False
        wake_at = None
        if closing.next_call is not None:
            definition = closing.next_call.definition
            next_run = NextRun(definition.name, definition.version, closing.note.payload or b"{}")
            wake_at = now
    return Entry(
        key=run.key,
        execution_id=run.execution_id,
        run=run.run,
        seq=run.next_seq,
        turn=turn.number,
        stamp=turn.stamp,
        notes=turn.notes,
        consumed=turn.consumed,
        requests=requests,
        orders=orders,
        status=status,
        wake_at=wake_at,
        inbox_seen=run.inbox_looked,
        undrained=turn.undrained,
        is_freed=is_freed,
        waiting_on=None if wake_at == LEAVE or closing is not None or is_unbegun else waiting_on(run.execution),
        next_run=next_run,
        silenced=silenced_by(run, is_over=closing is not None) if run.beats else (),
        shown=turn.shown,
    )


def result_entry(run: HotRun, note: Note, *, now: int) -> Entry:
    """Return the entry that records an activity's result without a turn: the next turn is to go on from it.

    It comes after what is recorded and not gone on from already, if there is such: there is one such turn at most.
    """
    is_past = run.wake_at is not None and run.wake_at <= now
    recorded = run.recorded
    return Entry(
        key=run.key,
        execution_id=run.execution_id,
        run=run.run,
        seq=run.next_seq,
        turn=run.execution.turn + 1 if recorded is None else recorded.number,
        stamp=max(now, run.execution.loop.stamp) if recorded is None else recorded.stamp,
        notes=[note],
        consumed=(),
        requests=(),
        status=Status.RUNNING,
        wake_at=LEAVE if is_past else now,
        inbox_seen=run.inbox_looked,
        undrained=1 if recorded is None else run.undrained + 1,
    )


def blocking_entry(run: HotRun, turn: Turn, failure: Failure, *, build: str, wake_at: int) -> Entry:
    """Return the entry that blocks a run: its results are kept, nothing else of the turn happens."""
    return Entry(
        key=run.key,
        execution_id=run.execution_id,
        run=run.run,
        seq=run.next_seq,
        turn=turn.number,
        stamp=turn.stamp,
        notes=turn.notes,
        consumed=(),
        requests=(),
        status=Status.BLOCKED,
        wake_at=wake_at,
        inbox_seen=run.inbox_written,
        undrained=turn.undrained,
        is_freed=True,
        # What has begun without recording anything must be known to have: it waits, for nothing that anybody knows.
        waiting_on=b"[]" if run.has_parked or run.execution.is_begun_elsewhere or turn.number > 1 else None,
        reason=encode_failure(failure),
        build=build,
    )


def waiting_on(execution: Execution) -> bytes:
    """Return, as JSON, what a parked run waits for."""
    waits: list[dict[str, object]] = []
    for call in execution.pending_calls():
        since = execution.instant(call.scheduled_at)
        wait: dict[str, object] = {"kind": call.kind.value, "id": call.activity_id, "since": since}
        if isinstance(call, ReceiveCall):
            wait["channel"] = call.name
        elif isinstance(call, WorkflowCall):
            wait["instance"] = call.child_id
        elif isinstance(call, ActivityCall):
            wait["attempt"] = f"{call.attempt:d}"
            if call.not_before:
                wait["until"] = execution.instant(call.not_before)
        waits.append(wait)
    for activity_id, child in execution.operations.children.held.items():
        if not child.closed.done():
            since = execution.instant(child.since)
            waits.append({"kind": "child", "id": activity_id, "since": since, "instance": child.id})
    timer = execution.timers.earliest()
    if timer is not None:
        waits.append({"kind": "timer", "id": timer.timer_id, "until": execution.instant(timer.deadline)})
    return _json.encode(waits)
