"""From where a run that has ended can go on in another way: what is kept of its history, and what comes after it.

Pure: a history in, a `Rewound` out, which storage writes in place of what it replaces (a retry) or as the beginning of
another instance's history (a rerun).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from romancy.core.events import (
    MARKERS,
    OUTCOMES,
    ChildEnd,
    Envelope,
    Event,
    EventKind,
    Note,
    Outcome,
)
from romancy.core.failures import Failure, decode_failure
from romancy.core.records import Status
from romancy.core.requests import ChildOutcome
from romancy.replay.ids import UNDOING
from romancy.replay.journal import release_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_decode_end = msgspec.json.Decoder(ChildEnd).decode
_decode_envelope = msgspec.json.Decoder(Envelope | None).decode
_STARTED = frozenset({ChildOutcome.STARTED, ChildOutcome.ATTACHED})
_CHILD_ERROR = "romancy.errors:ChildWorkflowFailedError"


class Letter(msgspec.Struct, frozen=True):
    """A message that was received after the cut: it is unread again."""

    channel: str
    envelope: Envelope


class Rewound(msgspec.Struct, frozen=True):
    """What is kept of a run's history, and what its going on needs.

    Attributes:
        cut: Events from this number on are not kept.
        turn: The number of the turn that goes on.
        activity_id: What had failed, or from what on it is rerun; None: its code had failed.
        again: Releases that are kept though they come after the cut: the turn goes on from them too.
        outcomes: Those of requests that were made before the cut and committed after it.
        open_children: The activity ids of the children that were started before the cut and had not ended by then.
        lost_children: Likewise, of those that were started after it.
        failed_child: The activity id of the child whose failure is cut off, if that is what had failed.
        subscriptions: The channels and mailboxes of the subscriptions that were made before the cut.
        letters: What was received after the cut.
    """

    cut: int
    turn: int
    activity_id: str | None
    again: Sequence[Note] = ()
    outcomes: Sequence[Outcome] = ()
    open_children: Sequence[str] = ()
    lost_children: Sequence[str] = ()
    failed_child: str | None = None
    subscriptions: Sequence[tuple[str, str]] = ()
    letters: Sequence[Letter] = ()


class CanNotRewindError(Exception):
    """There is nothing to go on from; the message says why, as the end of a sentence about the run."""


def undone_by(events: Iterable[Event]) -> dict[str, str]:
    """Return the ids of the activities that were undone, by the ids of what has undone them; in order."""
    return {
        event.activity_id or "": msgspec.json.decode(event.payload or b'""', type=str)
        for event in events
        if event.kind == EventKind.COMPENSATION_STARTED
    }


def retried(events: Sequence[Event]) -> Rewound:
    """Return how a run that has failed goes on where it failed.

    That is before the first of the failures that its own failure was made of was handed to its code; or, if it was the
    code itself that failed, before the release that it failed on.

    Raises:
        CanNotRewindError: It has undone something: it can't go on from there.
    """
    failure = decode_failure(events[-1].payload or b"{}")
    cut = next((event for event in events if _is_reason(event, failure)), None)
    if cut is None:
        return _before_last_release(events)
    kept, dropped = events[: cut.seq], events[cut.seq :]
    _refuse_undone(dropped, "")
    outcomes = [
        Outcome(event.kind, event.activity_id or "", (event.payload or b"").decode())
        for event in dropped
        if event.kind in OUTCOMES and event.turn == cut.turn + 1
    ]
    return _rewound(
        kept,
        dropped,
        cut.activity_id,
        outcomes=outcomes,
        failed_child=cut.activity_id if cut.kind == EventKind.CHILD_CLOSED else None,
    )


def _before_last_release(events: Sequence[Event]) -> Rewound:
    last = events[-1].turn
    release = next((e for e in reversed(events) if e.turn == last and release_of(e) is not None), None)
    if release is None:
        cut = next(index for index, event in enumerate(events) if event.turn == last)
        again = []
    else:
        cut = release.seq
        again = [Note(EventKind(release.kind), release.activity_id, release.payload)]
    dropped = events[cut:]
    # What the run undoes at its end counts, whenever that began; what a block has undone before, its code knows of.
    _refuse_undone([*(e for e in events[:cut] if (e.activity_id or "").startswith(f"{UNDOING}.")), *dropped], "")
    return _rewound(events[:cut], dropped[len(again) :], None, again=again)


def rerun(events: Sequence[Event], activity_id: str) -> Rewound:
    """Return how another run goes on as this one stood right before it was told of an operation's first outcome.

    Raises:
        CanNotRewindError: Nothing is recorded under the id, or what is can't be gone on from.
    """
    cut = next((event for event in events if event.activity_id == activity_id), None)
    if cut is None:
        known = dict.fromkeys(e.activity_id for e in events if e.activity_id and release_of(e) is not None)
        msg = f"has recorded nothing under {activity_id!r}; it has recorded {', '.join(known) or 'nothing at all'}"
        raise CanNotRewindError(msg)
    if cut.kind in MARKERS or release_of(cut) is None:
        msg = f"can't be rerun from {activity_id!r}: that is part of what comes before it; choose an activity"
        raise CanNotRewindError(msg)
    kept, dropped = events[: cut.seq], events[cut.seq :]
    if any(event.kind in {EventKind.CANCEL_REQUESTED, EventKind.TIME_LIMIT_REACHED} for event in kept):
        msg = f"was being cancelled when it came to {activity_id!r}: rerun it from before that"
        raise CanNotRewindError(msg)
    _refuse_undone(dropped, activity_id, kept)
    return _rewound(kept, dropped, activity_id)


def _rewound(
    kept: Sequence[Event],
    dropped: Sequence[Event],
    activity_id: str | None,
    *,
    again: Sequence[Note] = (),
    outcomes: Sequence[Outcome] = (),
    failed_child: str | None = None,
) -> Rewound:
    remembered = {outcome.activity_id for outcome in outcomes}
    known = [*kept, *(event for event in dropped if event.activity_id in remembered and event.kind in OUTCOMES)]
    ended = {event.activity_id for event in kept if event.kind == EventKind.CHILD_CLOSED}
    started = dict.fromkeys(event.activity_id or "" for event in known if _starts_child(event))
    return Rewound(
        cut=len(kept),
        turn=1 + (kept[-1].turn if kept else 0),
        activity_id=activity_id,
        again=again,
        outcomes=tuple(outcomes),
        open_children=[id for id in started if id not in ended],
        lost_children=[e.activity_id or "" for e in dropped if _starts_child(e) and e.activity_id not in remembered],
        failed_child=failed_child,
        subscriptions=list(_subscriptions(known)),
        letters=list(_letters(dropped)),
    )


def _starts_child(event: Event) -> bool:
    return event.kind == EventKind.CHILD_STARTED and int(event.payload or b"0") in _STARTED


def _subscriptions(events: Iterable[Event]) -> Iterator[tuple[str, str]]:
    for event in events:
        if event.kind == EventKind.SUBSCRIBED and (event.payload or b"").startswith(b'"'):
            channel = (event.activity_id or "").partition(":")[2]
            yield channel, msgspec.json.decode(event.payload or b'""', type=str)


def _letters(events: Iterable[Event]) -> Iterator[Letter]:
    for event in events:
        if event.kind in {EventKind.MESSAGE_RECEIVED, EventKind.MESSAGE_TRIED}:
            envelope = _decode_envelope(event.payload or b"null")
            if envelope is not None:
                yield Letter((event.activity_id or "").partition(":")[2], envelope)


def _refuse_undone(dropped: Iterable[Event], activity_id: str, kept: Iterable[Event] | None = None) -> None:
    """Raise if what the run would go on from has been undone since.

    Of a call that was armed by `compensate_with` nothing else is recorded: it counts as made before.
    """
    undone = list(undone_by(dropped).values())
    if kept is not None:
        events = [*kept]
        before = {event.activity_id for event in events}
        after = {event.activity_id for event in dropped}
        undone = [each for each in undone if each in before or each not in after]
    if not undone:
        return
    place = f" from {activity_id!r}" if activity_id else ""
    told = ", ".join(dict.fromkeys(undone))
    msg = f"has undone {told}, and can't go on{place} as if it had not: rerun it from {undone[-1]!r}"
    raise CanNotRewindError(msg)


def _is_reason(event: Event, failure: Failure) -> bool:
    """Tell whether an event is a failure that a run's own failure was made of."""
    if event.kind == EventKind.ACTIVITY_FAILED:
        return any(each.activity_id == event.activity_id for each in _parts(failure))
    if event.kind != EventKind.CHILD_CLOSED:
        return False
    end = _decode_end(event.payload or b"{}")
    if end.status == Status.COMPLETED:
        return False
    payload = bytes(end.payload)
    told = "no reason"
    if payload != b"null":
        its = decode_failure(payload)
        told = f"{its.type.partition(':')[2]}: {its.message}"
    ending = f" {Status(end.status).name.lower().replace('_', ' ')}: {told}"
    return any(each.type == _CHILD_ERROR and each.message.endswith(ending) for each in _parts(failure))


def _parts(failure: Failure) -> Iterator[Failure]:
    """Go through a failure, what it was raised from, and the members of groups.

    Not through what undoing ran into, nor what a child failed with: the ids in that are of another run.
    """
    yield failure
    if failure.type == _CHILD_ERROR:
        return
    if failure.cause is not None:
        yield from _parts(failure.cause)
    for each in failure.own_details:
        yield from _parts(each)
