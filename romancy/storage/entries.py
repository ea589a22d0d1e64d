"""What can be said of an entry when its instance's row is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.events import Event, EventKind
from romancy.core.records import LEAVE, Entry, Status
from romancy.core.requests import Publish, Send, StartChild, Subscribe
from romancy.storage.rows import HistoryRow, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.requests import Request

OUTCOMES: dict[type[Request], EventKind] = {
    Send: EventKind.MESSAGE_SENT,
    Publish: EventKind.TOPIC_PUBLISHED,
    Subscribe: EventKind.SUBSCRIBED,
    StartChild: EventKind.CHILD_STARTED,
}
"""The events that the outcomes of requests become."""


def is_advance(entry: Entry) -> bool:
    """Say whether an entry by itself leaves every indexed column as it is."""
    return entry.status is Status.RUNNING and entry.wake_at == LEAVE and not entry.is_freed


def is_progress(entry: Entry, now: int) -> bool:
    """Say whether an entry shows that its run does not kill its owners: its history grows, or it has gone to sleep."""
    if entry.notes or entry.requests:
        return True
    if entry.status is not Status.RUNNING or entry.wake_at == LEAVE:
        return False
    return entry.wake_at is None or entry.wake_at > now


def holds(session: int, entry: Entry, row: Row | None) -> bool:
    """Say whether an entry's instance is where the entry's turn began, and still the session's."""
    return (
        row is not None
        and row.next_seq == entry.seq
        and row.session == session
        and row.execution_id == entry.execution_id
        and row.run == entry.run
        and row.status < Status.COMPLETED
    )


def events_of(entry: Entry) -> list[HistoryRow]:
    """Give the events that an entry's turn has noted their places in history."""
    key, run, turn, stamp = entry.key, entry.run, entry.turn, entry.stamp
    return [
        HistoryRow(key, run, seq, turn, stamp, kind, activity_id, payload)
        for seq, (kind, activity_id, payload) in enumerate(entry.notes, entry.seq)
    ]


def is_recorded(entry: Entry, events: Sequence[Event]) -> bool:
    """Say whether these are the entry's own events, written by an attempt whose acknowledgement was lost."""
    if not events or len(events) != len(entry.notes) + len(entry.requests):
        return False
    if entry.notes:
        return events[0] == Event(entry.seq, entry.turn, entry.stamp, *entry.notes[0])
    first = events[0]
    return (first.seq, first.turn, first.stamp, first.kind, first.activity_id) == (
        entry.seq,
        entry.turn + 1,
        entry.stamp,
        OUTCOMES[type(entry.requests[0])],
        entry.requests[0].activity_id,
    )


def is_freed_already(entry: Entry, row: Row) -> bool:
    """Say whether an entry without events has freed its instance before.

    Nothing but the owner's own entry frees an instance of a live session and leaves it open.
    """
    return (
        entry.is_freed
        and not entry.notes
        and not entry.requests
        and row.session is None
        and row.status < Status.COMPLETED
        and (row.run, row.next_seq) == (entry.run, entry.seq)
    )
