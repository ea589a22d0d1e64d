"""When an instance is next claimable: what its ``wake_at`` becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.records import LEAVE, InboxKind, Status

if TYPE_CHECKING:
    from romancy.core.records import Entry
    from romancy.storage.rows import Row


def wake_for_mail(status: int, wake_at: int | None, now: int, kind: InboxKind = InboxKind.MESSAGE) -> int | None:
    """Return when an instance is claimable after something has reached its inbox.

    That is now, or earlier if it is due already, so that mail never costs an instance its place in the queue.
    A message does not start a pending instance before its time, nor one that was paused before it began (what had
    begun is made claimable by whoever takes the pause back); a cancel does, because it must reach it.
    """
    if status in {Status.PENDING, Status.PAUSED} and kind is InboxKind.MESSAGE:
        return wake_at
    return _by(now, wake_at)


def with_mail(row: Row, now: int, kind: InboxKind = InboxKind.MESSAGE) -> Row:
    """Return an instance's row as it is when one more item is in its inbox, under the number ``inbox_seq``."""
    return row._replace(inbox_seq=row.inbox_seq + 1, wake_at=wake_for_mail(row.status, row.wake_at, now, kind))


def parked_until(entry: Entry, wake_at: int | None, now: int, *, is_mailed: bool) -> int | None:
    """Return when an entry's instance is claimable after it; ``wake_at`` is when it was before."""
    if entry.status.is_closed:
        return None
    if entry.wake_at != LEAVE:
        wake_at = entry.wake_at
    elif not entry.is_freed:
        return wake_at
    return _by(now, wake_at) if is_mailed else wake_at


def _by(now: int, wake_at: int | None) -> int:
    return now if wake_at is None or wake_at > now else wake_at
