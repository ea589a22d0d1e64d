"""A commit on PostgreSQL of which every entry is plain: one statement, which is a transaction by itself.

That costs one round trip where `romancy.storage.commit` takes four, and agrees with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.storage.entries import events_of
from romancy.storage.plain import is_plain, plain_row
from romancy.storage.postgres_arrays import arrays
from romancy.storage.postgres_errors import REFUSALS
from romancy.storage.sessions import lost
from romancy.storage.sql.plain import WRITE_IF_UNCHANGED, WRITTEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.records import Entry
    from romancy.storage.tx import Tx


def is_possible(entries: Sequence[Entry]) -> bool:
    """Say whether entries can be written by one statement: all are plain, and no two are for one instance."""
    return all(map(is_plain, entries)) and len({entry.key for entry in entries}) == len(entries)


async def write(tx: Tx, session: int, entries: Sequence[Entry]) -> set[int]:
    """Write plain entries, each on condition that it holds and that its inbox holds nothing which it has not seen.

    Returns:
        The keys of those that were written. The others are to be decided, and all are if a value is refused.

    Raises:
        SessionLostError: The session is dead; nothing is written.
    """
    entry_rows = [plain_row(session, entry, tx.now) for entry in entries]
    events = [event for entry in entries for event in events_of(entry)]
    consumed = [(entry.key, seq) for entry in entries for seq in entry.consumed]
    given: tuple[Sequence[tuple[object, ...]], ...] = (entry_rows, events, consumed)
    try:
        columns = [column for rows, types in zip(given, WRITTEN, strict=True) for column in arrays(rows, types)]
        found = await tx.row(WRITE_IF_UNCHANGED, tx.present, session, *columns)
    except REFUSALS:
        return set()
    is_live, keys = found or (False, ())
    if not is_live:
        raise lost(session)
    return set(keys)
