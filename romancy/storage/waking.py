"""When an instance is next claimable: what its ``wake_at`` becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.records import LEAVE, InboxKind, Status

if TYPE_CHECKING:
    from romancy.core.records import Entry


def wake_for_mail(status: int, wake_at: int | None, now: int, kind: InboxKind = InboxKind.MESSAGE) -> int | None:
    """Return when an instance is claimable after something has reached its inbox.

    That is now, or earlier if it is due already, so that mail never costs an instance its place in the queue.
    A message does not start a pending instance before its time; a cancel does, because it must reach it.
    """
    if status == Status.PENDING and kind is InboxKind.MESSAGE:
        return wake_at
    return now if wake_at is None or wake_at > now else wake_at


def parked_until(entry: Entry, wake_at: int | None, now: int, *, is_mailed: bool) -> int | None:
    """Return when an entry's instance is claimable after it; ``wake_at`` is when it was before."""
    if entry.status.is_closed:
        return None
    if entry.wake_at != LEAVE:
        wake_at = entry.wake_at
    elif not entry.is_freed:
        return wake_at
    if is_mailed:
        return wake_for_mail(entry.status, wake_at, now)
    return wake_at
