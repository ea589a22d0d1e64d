"""What a run's history is made of.

A *release* is one thing from outside, handed to a run in its recorded order. A *marker* is recorded where the
code meets it. Both become an `Event`: the flat row that storage keeps and that replay reads.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence


class EventKind(IntEnum):
    """Say what an event is. The numbers are stored: never reuse one."""

    ACTIVITY_COMPLETED = 1
    ACTIVITY_FAILED = 2
    ACTIVITY_RETRIED = 3
    TIMER_FIRED = 4
    MESSAGE_RECEIVED = 5
    MESSAGE_SENT = 6
    CANCEL_REQUESTED = 7
    SIDE_EFFECT = 8
    ACTIVITY_HANDED_OVER = 9
    CHILD_STARTED = 10
    CHILD_CLOSED = 11
    TOPIC_PUBLISHED = 12
    SUBSCRIBED = 13
    MESSAGE_TRIED = 14
    PATCHED = 15
    TIME_LIMIT_REACHED = 16
    COMPENSATION_STARTED = 17
    RUN_COPIED = 18
    RUN_RESUMED = 19
    RUN_COMPLETED = 20
    RUN_FAILED = 21
    RUN_CANCELLED = 22
    RUN_TERMINATED = 23
    RUN_TIMED_OUT = 24
    RUN_RECURRED = 25
    ACTIVITY_SCHEDULED = 40
    TIMER_STARTED = 41
    TIMER_CANCELLED = 42


MARKERS = frozenset({EventKind.SIDE_EFFECT, EventKind.MESSAGE_TRIED, EventKind.PATCHED})
OUTCOMES = frozenset({EventKind.MESSAGE_SENT, EventKind.TOPIC_PUBLISHED, EventKind.SUBSCRIBED, EventKind.CHILD_STARTED})
"""What only the commit knows of what a turn has asked for; recorded with the asking, after the turn's own events."""
CLOSINGS = frozenset(
    {
        EventKind.RUN_COMPLETED,
        EventKind.RUN_FAILED,
        EventKind.RUN_CANCELLED,
        EventKind.RUN_TERMINATED,
        EventKind.RUN_TIMED_OUT,
        EventKind.RUN_RECURRED,
    }
)


TIME_LIMIT = "limit@1"
"""The id of the timer that is a run's own time limit."""


class Note(NamedTuple):
    """One event as a turn writes it: its place in history is given by the commit."""

    kind: EventKind
    activity_id: str | None
    payload: bytes | None


class Event(NamedTuple):
    """One recorded event of a run.

    ``seq`` counts from 0 within the run; ``turn`` from 1; ``stamp`` is epoch microseconds.
    """

    seq: int
    turn: int
    stamp: int
    kind: int
    activity_id: str | None
    payload: bytes | None


class ActivityCompleted(msgspec.Struct, frozen=True, gc=False):
    """An activity's (or compensation's) encoded result."""

    activity_id: str
    result: bytes


class ActivityFailed(msgspec.Struct, frozen=True, gc=False):
    """An activity that failed for good: an encoded `Failure`.

    ``attempt`` is the attempt that failed, so that another one's failure is passed over; 0 on replay.
    """

    activity_id: str
    failure: bytes
    attempt: int = 0


class ActivityRetried(msgspec.Struct, frozen=True, gc=False):
    """An attempt that failed and will be followed by another: an encoded `Attempt`."""

    activity_id: str
    attempt: bytes


class ActivityHandedOver(msgspec.Struct, frozen=True, gc=False):
    """An attempt whose body has ended, and whose outcome comes from outside: an encoded `HandOver`."""

    activity_id: str
    hand_over: bytes


class ActivityAnswered(msgspec.Struct, frozen=True, gc=False):
    """An encoded `OutsideAnswer` out of the inbox; it becomes an activity's outcome, or nothing.

    Not a release: what is recorded is what it becomes.
    """

    answer: bytes
    inbox_seq: int


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer whose deadline has come; the run's own time limit is the timer `TIME_LIMIT`."""

    timer_id: str


class MessageReceived(msgspec.Struct, frozen=True, gc=False):
    """A message for the receive that waits longest on its mailbox: a channel's name, or a subscription's.

    ``activity_id`` is empty until the replay core has named the receive; ``envelope`` is an encoded `Envelope`.
    ``inbox_seq`` is its row in the inbox, 0 on replay.
    """

    mailbox: str
    envelope: bytes
    inbox_seq: int = 0
    activity_id: str = ""


class Answered(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a request, decided by the commit; ``kind`` says of what kind of request."""

    kind: EventKind
    activity_id: str
    outcome: bytes


class ChildClosed(msgspec.Struct, frozen=True, gc=False):
    """The end of a child that this run, or an earlier one of the instance, has started: an encoded `ChildEnd`.

    ``inbox_seq`` is its row in the inbox, 0 on replay.
    """

    activity_id: str
    end: bytes
    inbox_seq: int = 0


class CancelRequested(msgspec.Struct, frozen=True, gc=False):
    """Somebody asked the run to cancel; ``inbox_seq`` is 0 on replay.

    ``reason`` is JSON: the reason as text, or a `Cancellation`.
    """

    reason: bytes
    inbox_seq: int = 0


class Resumed(msgspec.Struct, frozen=True, gc=False):
    """A run that goes on from here, though it went on in another way before: an encoded `Resumption`."""

    resumption: bytes


Release: TypeAlias = (
    ActivityCompleted
    | ActivityFailed
    | ActivityRetried
    | ActivityHandedOver
    | TimerFired
    | MessageReceived
    | Answered
    | ChildClosed
    | CancelRequested
    | Resumed
)
Arrival: TypeAlias = Release | ActivityAnswered

NOTHING = msgspec.Raw()
"""Stands for a field that is left out."""


class Cancellation(msgspec.Struct, frozen=True):
    """A cancel with a limit: the run is terminated if it has not ended ``grace`` microseconds after its release."""

    reason: str
    grace: int


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """A failed attempt that is not the last: its number (from 1), and when the next one is due.

    ``details`` are those of the last heartbeat, if there was one with details.
    """

    attempt: int
    retry_at: int
    failure: msgspec.Raw
    details: msgspec.Raw = NOTHING


class HandOver(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attempt that somebody outside finishes: its number (from 1), and when it is timed out.

    ``deadline`` is epoch microseconds, 0: never. ``details`` are those of the last heartbeat, if any.
    """

    attempt: int
    deadline: int
    details: msgspec.Raw = NOTHING


class OutsideAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What somebody outside says of an attempt: its encoded result, or the encoded `Failure`.

    ``is_final``: the failure ends the activity, whatever its retry policy.
    """

    run: int
    activity_id: str
    attempt: int
    result: msgspec.Raw = NOTHING
    failure: msgspec.Raw = NOTHING
    is_final: bool = False


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message with its surroundings.

    ``at`` is when it was sent or published, in epoch microseconds by the database's clock; ``sender`` is the id of the
    instance that did so, if one did.
    """

    message_id: str
    at: int
    body: msgspec.Raw
    sender: str | None = None
    headers: dict[str, str] = {}


class ChildEnd(msgspec.Struct, frozen=True):
    """How a child has ended: the run that started it, its `Status`, and its last event's payload."""

    run: int
    status: int
    payload: msgspec.Raw


class Outcome(msgspec.Struct, frozen=True):
    """The recorded outcome of a request: its `EventKind`, its activity id and its payload as text."""

    kind: int
    activity_id: str
    payload: str


class Resumption(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a run goes on that was retried, or rerun from an activity.

    Attributes:
        seed: The execution id of the start that goes on: what is asked for from now on has its names from it.
        seed_id: That start's instance id.
        mark: Tells what is asked for from now on from what was asked for before under the same activity ids, and is
            not known any more: a random text.
        activity_id: What had failed, or from what on it is rerun; None: its code had failed.
        input: What that activity or child is given instead of its arguments, encoded; left out: what the code gives it.
        outcomes: Those of requests that the run had made before here, and which are recorded after it no more.
    """

    seed: int
    seed_id: str
    mark: str
    activity_id: str | None = None
    input: msgspec.Raw = NOTHING
    outcomes: tuple[Outcome, ...] = ()


class Copied(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the beginning of a history was copied from: the payload of its first event.

    Attributes:
        id: The id of the instance that it was recorded by.
        seed: The number that what the copied turns have asked for has its names from: that instance's execution id,
            or the one that it was copied with itself.
        seed_id: The id of the instance whose start had that number.
    """

    id: str
    seed: int
    seed_id: str


def copied_by(history: Sequence[Event]) -> Copied | None:
    """Return where the beginning of a history comes from; None: it is its instance's own."""
    if not history or history[0].kind != EventKind.RUN_COPIED:
        return None
    return msgspec.json.decode(history[0].payload or b"", type=Copied)


class SendOutcome(IntEnum):
    """What became of a send. Stored as a decimal number."""

    SENT = 0
    CLOSED = 1
    NOT_FOUND = 2
    OTHER_MODE = 3
