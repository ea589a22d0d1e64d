"""What has happened in a run, told so that people see it at a glance. Pure: a history in, a list out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from romancy.client.info import instant
from romancy.core.events import CLOSINGS, Attempt, ChildEnd, Envelope, Event, EventKind, Resumption, SendOutcome
from romancy.core.failures import Failure, decode_failure
from romancy.core.records import Status
from romancy.replay.rewinding import undone_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Outcome: TypeAlias = Literal["done", "failed", "undone", "again", "under way", "noted"]

_attempt = msgspec.json.Decoder(Attempt)
_end = msgspec.json.Decoder(ChildEnd)
_envelope = msgspec.json.Decoder(Envelope | None)
_resumption = msgspec.json.Decoder(Resumption)


class Happening(msgspec.Struct, frozen=True):
    """One line of a run's story.

    Attributes:
        at: When it was recorded, an aware UTC datetime.
        kind: What it was: ``activity``, ``compensation``, ``timer``, ``message``, ``send``, ``child``, ``run``,
            ``note``.
        activity_id: Its id in the run, if it has one.
        outcome: ``done``; ``failed``, for good; ``again``: an attempt has failed, and another follows; ``undone``: it
            was done, and undone later; ``under way``: a compensation that has begun and has no outcome; ``noted``:
            neither.
        text: What there is to say of it: a result or message as JSON, a failure, or what it means.
        undoes: Of a compensation, the id of what it undoes.
        undone_by: Of what was undone, the id of the compensation that did so.
    """

    at: datetime
    kind: str
    activity_id: str | None
    outcome: Outcome
    text: str = ""
    undoes: str | None = None
    undone_by: str | None = None


def timeline_of(events: Sequence[Event]) -> list[Happening]:
    """Return a run's story, from its history."""
    undoes = undone_by(events)
    undone = {
        undoes[event.activity_id]: event.activity_id
        for event in events
        if event.kind == EventKind.ACTIVITY_COMPLETED and event.activity_id in undoes
    }
    ended = {event.activity_id for event in events if event.kind in _ENDS}
    told = [_told(event, undoes, undone, ended) for event in events]
    return [happening for happening in told if happening is not None]


_ENDS = frozenset({EventKind.ACTIVITY_COMPLETED, EventKind.ACTIVITY_FAILED})
_RUNS = CLOSINGS - {EventKind.RUN_COMPLETED, EventKind.RUN_RECURRED}
_SENT = {
    SendOutcome.SENT: "sent",
    SendOutcome.CLOSED: "not sent: the instance has ended",
    SendOutcome.NOT_FOUND: "not sent: there is no such instance",
    SendOutcome.OTHER_MODE: "not sent: the channel has another mode",
}


def _told(
    event: Event, undoes: Mapping[str, str], undone: Mapping[str, str], ended: set[str | None]
) -> Happening | None:
    id, kind = event.activity_id, event.kind
    payload = event.payload or b"null"
    at = instant(event.stamp)
    undoing = undoes.get(id or "")
    sort = "activity" if undoing is None else "compensation"
    match kind:
        case EventKind.ACTIVITY_COMPLETED:
            by = undone.get(id or "")
            return Happening(at, sort, id, "undone" if by else "done", payload.decode(), undoing, by)
        case EventKind.ACTIVITY_FAILED:
            return Happening(at, sort, id, "failed", failure_line(decode_failure(payload)), undoing)
        case EventKind.ACTIVITY_RETRIED:
            failed = _attempt.decode(payload)
            text = f"attempt {failed.attempt} failed: {failure_line(decode_failure(bytes(failed.failure)))}"
            return Happening(at, sort, id, "again", text, undoing)
        case EventKind.ACTIVITY_HANDED_OVER:
            return Happening(at, sort, id, "noted", "is finished from outside", undoing)
        case EventKind.COMPENSATION_STARTED:
            return None if id in ended else Happening(at, sort, id, "under way", "", undoing)
        case EventKind.TIMER_FIRED:
            return Happening(at, "timer", id, "done")
        case EventKind.TIME_LIMIT_REACHED:
            return Happening(at, "timer", id, "failed", "the instance's time limit was reached")
        case _ if kind in CLOSINGS:
            return _ending(at, EventKind(kind), payload)
        case _:
            return _exchange(event, at, payload)


def _exchange(event: Event, at: datetime, payload: bytes) -> Happening | None:
    """Tell of what went between the run and others."""
    id = event.activity_id
    match event.kind:
        case EventKind.MESSAGE_RECEIVED | EventKind.MESSAGE_TRIED:
            envelope = _envelope.decode(payload)
            return None if envelope is None else Happening(at, "message", id, "done", bytes(envelope.body).decode())
        case EventKind.MESSAGE_SENT | EventKind.TOPIC_PUBLISHED:
            outcome = SendOutcome(int(payload))
            return Happening(at, "send", id, "done" if outcome is SendOutcome.SENT else "failed", _SENT[outcome])
        case EventKind.CHILD_STARTED:
            return Happening(at, "child", id, "noted", "started" if payload != b"1" else "not started: its id is taken")
        case EventKind.CHILD_CLOSED:
            end = _end.decode(payload)
            text = bytes(end.payload).decode()
            if end.status != Status.COMPLETED:
                told = "no reason" if text == "null" else failure_line(decode_failure(bytes(end.payload)))
                text = f"{Status(end.status).name.lower().replace('_', ' ')}: {told}"
            return Happening(at, "child", id, "done" if end.status == Status.COMPLETED else "failed", text)
        case EventKind.CANCEL_REQUESTED:
            return Happening(at, "run", None, "noted", f"was asked to cancel: {payload.decode()}")
        case EventKind.RUN_RESUMED:
            place = _resumption.decode(payload).activity_id
            return Happening(at, "run", place, "again", "goes on from here")
        case EventKind.RUN_COPIED:
            source = msgspec.json.decode(payload, type=dict[str, object])
            return Happening(at, "run", None, "noted", f"began as a copy of {source['id']}")
        case EventKind.SIDE_EFFECT:
            return Happening(at, "note", id, "noted", payload.decode())
        case _:
            return None


def _ending(at: datetime, kind: EventKind, payload: bytes) -> Happening:
    word = kind.name.removeprefix("RUN_").lower().replace("_", " ")
    if kind in _RUNS:
        failure = decode_failure(payload) if payload != b"null" else None
        text = word if failure is None else f"{word}: {failure_line(failure)}"
        return Happening(at, "run", None, "failed", text)
    return Happening(at, "run", None, "done", f"{word}: {payload.decode()}")


def failure_line(failure: Failure) -> str:
    """Return what failed, in a line: its class, what it says, and after how many attempts."""
    often = f" (after {failure.attempts} attempts)" if failure.attempts > 1 else ""
    return f"{failure.type.partition(':')[2]}: {' '.join(failure.message.split())}{often}"
