"""What is recorded of a run, as replay needs it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, assert_never

import msgspec

from romancy.core.calls import CallKind
from romancy.core.events import (
    CLOSINGS,
    MARKERS,
    OUTCOMES,
    TIME_LIMIT,
    ActivityCompleted,
    ActivityFailed,
    ActivityHandedOver,
    ActivityRetried,
    Answered,
    CancelRequested,
    ChildClosed,
    Event,
    EventKind,
    MessageReceived,
    Note,
    Release,
    Resumed,
    TimerFired,
)
from romancy.errors import NondeterminismError
from romancy.replay.locations import author_location
from romancy.replay.patching import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_OPERATION_KIND: dict[int, CallKind] = {
    EventKind.ACTIVITY_COMPLETED: CallKind.ACTIVITY,
    EventKind.ACTIVITY_FAILED: CallKind.ACTIVITY,
    EventKind.ACTIVITY_RETRIED: CallKind.ACTIVITY,
    EventKind.ACTIVITY_HANDED_OVER: CallKind.ACTIVITY,
    EventKind.MESSAGE_RECEIVED: CallKind.RECEIVE,
    EventKind.MESSAGE_TRIED: CallKind.TRY_RECEIVE,
    EventKind.MESSAGE_SENT: CallKind.SEND,
    EventKind.TOPIC_PUBLISHED: CallKind.PUBLISH,
    EventKind.SUBSCRIBED: CallKind.SUBSCRIBE,
    EventKind.CHILD_STARTED: CallKind.CHILD,
    EventKind.CHILD_CLOSED: CallKind.CHILD,
    EventKind.SIDE_EFFECT: CallKind.SIDE_EFFECT,
}
_COMPLETED = EventKind.ACTIVITY_COMPLETED
_ENDS = frozenset({EventKind.ACTIVITY_COMPLETED, EventKind.ACTIVITY_FAILED}) | OUTCOMES
_PASSED_OVER = (
    MARKERS
    | CLOSINGS
    | {
        EventKind.COMPENSATION_STARTED,
        EventKind.RUN_COPIED,
        EventKind.ACTIVITY_SCHEDULED,
        EventKind.TIMER_STARTED,
        EventKind.TIMER_CANCELLED,
    }
)
_RELEASES: dict[int, type[ActivityCompleted | ActivityFailed | ActivityRetried | ActivityHandedOver | ChildClosed]] = {
    EventKind.ACTIVITY_COMPLETED: ActivityCompleted,
    EventKind.ACTIVITY_FAILED: ActivityFailed,
    EventKind.ACTIVITY_RETRIED: ActivityRetried,
    EventKind.ACTIVITY_HANDED_OVER: ActivityHandedOver,
    EventKind.CHILD_CLOSED: ChildClosed,
}
"""Releases of an activity id and a payload."""
_MEND = "deploy the code that the run began with, or a new version of the workflow beside it"


def note_of(release: Release) -> Note:  # noqa: C901 - a case for each kind of release
    """Return what history keeps of a release."""
    match release:
        case ActivityCompleted():  # by far the most frequent: without a pattern for its fields
            return Note(_COMPLETED, release.activity_id, release.result)
        case ActivityFailed(activity_id, failure):
            return Note(EventKind.ACTIVITY_FAILED, activity_id, failure)
        case ActivityRetried(activity_id, attempt):
            return Note(EventKind.ACTIVITY_RETRIED, activity_id, attempt)
        case ActivityHandedOver(activity_id, hand_over):
            return Note(EventKind.ACTIVITY_HANDED_OVER, activity_id, hand_over)
        case TimerFired(timer_id):
            kind = EventKind.TIME_LIMIT_REACHED if timer_id == TIME_LIMIT else EventKind.TIMER_FIRED
            return Note(kind, timer_id, None)
        case MessageReceived(_, envelope, _, activity_id):
            return Note(EventKind.MESSAGE_RECEIVED, activity_id, envelope)
        case Answered(kind, activity_id, outcome):
            return Note(kind, activity_id, outcome)
        case ChildClosed(activity_id, end):
            return Note(EventKind.CHILD_CLOSED, activity_id, end)
        case CancelRequested(reason):
            return Note(EventKind.CANCEL_REQUESTED, None, reason)
        case Resumed(resumption):
            return Note(EventKind.RUN_RESUMED, None, resumption)
        case _:
            assert_never(release)


def release_of(event: Event) -> Release | None:
    """Return the release that an event records; None for markers, for what closes a run, and for what is for people.

    Raises:
        NondeterminismError: The event's kind is not one that this romancy knows, or it has no id.
    """
    kind, key, payload = event.kind, event.activity_id or "", event.payload or b""
    match kind:
        case _ if kind in _RELEASES:
            return _RELEASES[kind](key, payload)
        case EventKind.TIMER_FIRED | EventKind.TIME_LIMIT_REACHED:
            return TimerFired(key)
        case EventKind.MESSAGE_RECEIVED:
            return MessageReceived(key.partition(":")[2], payload, 0, key)
        case EventKind.CANCEL_REQUESTED:
            return CancelRequested(payload)
        case EventKind.RUN_RESUMED:
            return Resumed(payload)
        case _ if kind in OUTCOMES:
            return Answered(EventKind(kind), key, payload)
        case _ if kind in _PASSED_OVER:
            return None
        case _:
            msg = f"event {event.seq} has the unknown kind {kind}: it was written by a newer romancy"
            raise NondeterminismError(msg, event.activity_id)


class RecordedTurn(msgspec.Struct, frozen=True):
    """One turn of a history: its releases in their order."""

    number: int
    stamp: int
    releases: list[Release]


def turns_of(events: Iterable[Event]) -> list[RecordedTurn]:
    """Group a history, ordered by seq, into turns."""
    return [
        RecordedTurn(number, stamp, [release for event in rows if (release := release_of(event)) is not None])
        for (number, stamp), rows in groupby(events, key=lambda event: (event.turn, event.stamp))
    ]


class Journal:
    """Check what the code asks for against what is recorded, and hold the recorded markers.

    ``turn`` is the number of the turn that is gone through.
    """

    __slots__ = ("_ended", "_markers", "_patches", "_recorded", "_unmet", "turn")

    def __init__(self, events: Sequence[Event], ahead: Sequence[Event] = ()) -> None:
        """Index a history.

        Args:
            events: What has been gone through; its markers must be met again.
            ahead: What is recorded after that.
        """
        self._recorded: dict[str, tuple[CallKind, str]] = {}
        self._markers: dict[str, bytes] = {}
        self._ended: set[str] = set()
        self._patches: dict[str, int] = {}
        self.turn = 0
        for event in (*events, *ahead):
            kind = _OPERATION_KIND.get(event.kind)
            if kind is None or event.activity_id is None:
                if event.kind == EventKind.PATCHED and event.activity_id is not None:
                    self._patches[event.activity_id.removeprefix(PREFIX)] = event.turn
                continue
            position, _, name = event.activity_id.partition(":")
            self._recorded[position] = (kind, name)
            if event.kind in _ENDS:
                self._ended.add(event.activity_id)
            elif event.kind in MARKERS:
                self._markers[event.activity_id] = event.payload or b"null"
        self._unmet = dict.fromkeys(self._patches)

    def has_end_of(self, activity_id: str) -> bool:
        """Tell whether the outcome of an activity or a request is recorded."""
        return activity_id in self._ended

    def check(self, position: str, kind: CallKind, name: str) -> None:
        """Raise `NondeterminismError` if something else is recorded at a position."""
        recorded = self._recorded.get(position)
        if recorded is None or (recorded[0] is kind and recorded[1] == name):
            return
        location = author_location()
        was, asked = f"{recorded[0].value} {recorded[1]!r}", f"{kind.value} {name!r}"
        msg = f"{position}: history records {was}, but the code at {location} asks for {asked}: {_MEND}{self.hint()}"
        raise NondeterminismError(msg, position, was, asked, location)

    def take_marker(self, activity_id: str) -> bytes:
        """Return a recorded marker's value.

        Raises:
            NondeterminismError: Nothing is recorded under the id.
        """
        value = self._markers.pop(activity_id, None)
        if value is None:
            raise missing(activity_id, author_location())
        return value

    def meet_patch(self, patch: str) -> bool:
        """Tell whether a patch is recorded that the code asks for.

        Raises:
            NondeterminismError: It was recorded later than now: it is asked for at a place that the run had passed
                without it.
        """
        recorded = self._patches.get(patch)
        if recorded is None:
            return False
        self._unmet.pop(patch, None)
        if recorded <= self.turn:
            return True
        location = author_location()
        msg = (
            f"the code at {location} asks patched({patch!r}) in turn {self.turn}, but the run went by there without "
            f"it: history records the patch in turn {recorded}: give the new place a patch id of its own"
        )
        raise NondeterminismError(msg, PREFIX + patch, PREFIX + patch, PREFIX + patch, location)

    def hint(self) -> str:
        """Return what to add to an error if the reason may be a patch that the code does not ask for any more."""
        return "".join(
            f"; history also records that the run took patch {patch!r}, which the code has not asked for: if "
            f"patched({patch!r}) was removed, put it back"
            for patch in self._unmet
            if self._patches[patch] <= self.turn
        )

    def finish(self) -> None:
        """Raise `NondeterminismError` if a recorded marker was not reached."""
        for patch in self._unmet:
            raise _unpatched(patch)
        for activity_id in self._markers:
            raise unreached(activity_id)


def _unpatched(patch: str) -> NondeterminismError:
    msg = (
        f"history records that the run took patch {patch!r}, but the code no longer asks patched({patch!r}): put the "
        "call back until every run that has recorded it has ended, or deploy the code without it as a new version of "
        "the workflow beside this one"
    )
    return NondeterminismError(msg, PREFIX + patch, f"patch {patch!r}")


def unreached(activity_id: str, hint: str = "") -> NondeterminismError:
    """Return the error for a recorded id that the code does not get to any more."""
    msg = f"{activity_id}: history records it, but the code no longer gets there: {_MEND}{hint}"
    return NondeterminismError(msg, activity_id, activity_id)


def missing(activity_id: str, location: str) -> NondeterminismError:
    """Return the error for what the code asks for where history would hold it, and does not."""
    msg = f"{activity_id}: history does not record it, but the code at {location} asks for it: {_MEND}"
    return NondeterminismError(msg, activity_id, None, activity_id, location)
