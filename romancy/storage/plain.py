"""Entries whose outcome needs no decision: what they write depends on their own instances alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.records import LEAVE, Accepted
from romancy.storage.entries import is_advance, is_progress
from romancy.storage.rows import PlainRow
from romancy.storage.waking import parked_until

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from romancy.core.records import Entry
    from romancy.storage.commit import Answer

NOTHING_ASKED = Accepted([])
"""The answer to a plain entry that was written: its inbox holds nothing new."""


def is_plain(entry: Entry) -> bool:
    """Say whether an entry reaches nothing but its own instance, its history and its inbox."""
    return (
        not entry.requests
        and not entry.orders
        and not entry.silenced
        and entry.next_run is None
        and entry.shown is None
    )


def answers_of(entries: Sequence[Entry], written: Container[int], decided: Sequence[Answer]) -> list[Answer]:
    """Put together the answers to plain entries that were written, told by their keys, and to the decided others."""
    others = iter(decided)
    return [NOTHING_ASKED if entry.key in written else next(others) for entry in entries]


def plain_row(session: int, entry: Entry, now: int) -> PlainRow:
    """Say what a plain entry writes to its instance if that holds, and has no mail after it.

    Agrees with `romancy.storage.decision.decide`. Where ``is_waiting_on_written`` is false, ``wake_at`` and
    ``waiting_on`` stay as they are.
    """
    end = entry.seq + len(entry.notes)
    is_closed = entry.status.is_closed
    return PlainRow(
        entry.key,
        entry.execution_id,
        entry.run,
        entry.seq,
        end,
        end - entry.undrained,
        is_progress(entry, now),
        entry.inbox_seen,
        not is_advance(entry),
        None if is_closed or entry.is_freed else session,
        entry.status,
        is_closed or entry.wake_at != LEAVE,
        parked_until(entry, None, now, is_mailed=False),
        None if is_closed else entry.waiting_on,
        entry.reason,
        entry.build,
        entry.stamp if is_closed else None,
    )
