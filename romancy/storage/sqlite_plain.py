"""A commit on SQLite, of which most entries are written without reading first.

For one who has the write lock a condition in an UPDATE is as good as a decision, and twice as fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.storage.commit import begin, with_mail_told, write
from romancy.storage.entries import events_of
from romancy.storage.plain import NOTHING_ASKED, answers_of, is_plain, plain_row
from romancy.storage.sql import history, instances
from romancy.storage.sql.plain import ADVANCE_IF_UNCHANGED, ADVANCED, SETTLE_IF_UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.records import Entry
    from romancy.storage.commit import Answer
    from romancy.storage.rows import HistoryRow
    from romancy.storage.sqlite_tx import SqliteTx


async def commit(tx: SqliteTx, session: int, entries: Sequence[Entry]) -> list[Answer]:
    """Write entries; see `romancy.storage.protocol.Storage.commit`.

    Raises:
        SessionLostError: The session is dead; nothing is written.
    """
    await begin(tx, session, entries)
    plain = await plain_of(tx, session, entries)
    if not plain or await tx.attempt(lambda: write_plain(tx, session, plain)) is not True:
        return await write(tx, session, entries)
    if len(plain) == len(entries):
        return [NOTHING_ASKED] * len(entries)
    written = {entry.key for entry in plain}
    left = [entry for entry in entries if entry.key not in written]
    return await with_mail_told(tx, entries, answers_of(entries, written, await write(tx, session, left)))


async def plain_of(tx: SqliteTx, session: int, entries: Sequence[Entry]) -> list[Entry]:
    """Pick the plain entries, if nothing of the batch reaches their instances; an instance that has mail is left out.

    What has been consumed is left out too: it has changed what the conditions look at.
    """
    if any(entry.requests or entry.orders for entry in entries):
        return []
    with_mail = {key for (key,) in await tx.rows(instances.WITH_MAIL, session)}
    return [entry for entry in entries if is_plain(entry) and not entry.consumed and entry.key not in with_mail]


async def write_plain(tx: SqliteTx, session: int, entries: Sequence[Entry]) -> bool:
    """Write plain entries without reading first, each on condition that it holds and has no mail.

    Agrees with `romancy.storage.commit.write_decided` where all conditions are met.

    Returns:
        Whether they were; if not, the caller must undo what was written.
    """
    advances: list[tuple[object, ...]] = []
    settlements: list[tuple[object, ...]] = []
    events: list[HistoryRow] = []
    for entry in entries:
        row = plain_row(session, entry, tx.now)
        if row.is_settlement:
            settlements.append((session, *row))
        else:
            advances.append((session, *row[:ADVANCED]))
        events += events_of(entry)
    updated = 0
    if advances:
        updated += tx.connection.executemany(ADVANCE_IF_UNCHANGED, advances).rowcount
    if settlements:
        updated += tx.connection.executemany(SETTLE_IF_UNCHANGED, settlements).rowcount
    if updated < len(entries):
        return False
    await tx.write((history.INSERT, events))
    return True
