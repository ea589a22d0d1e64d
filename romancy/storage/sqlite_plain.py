"""A commit on SQLite, of which most entries are written without reading first.

For one who has the write lock a condition in an UPDATE is as good as a decision, and twice as fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.records import LEAVE, Accepted
from romancy.storage.commit import begin, with_mail_told, write
from romancy.storage.decision import events_of, is_advance
from romancy.storage.sql import history, instances
from romancy.storage.waking import parked_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.records import Entry
    from romancy.storage.commit import Answer
    from romancy.storage.rows import HistoryRow
    from romancy.storage.sqlite_tx import SqliteTx

_NOTHING_ASKED = Accepted([])


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
        return [_NOTHING_ASKED] * len(entries)
    written = {entry.key for entry in plain}
    others = iter(await write(tx, session, [e for e in entries if e.key not in written]))
    answers = [_NOTHING_ASKED if entry.key in written else next(others) for entry in entries]
    return await with_mail_told(tx, entries, answers)


async def plain_of(tx: SqliteTx, session: int, entries: Sequence[Entry]) -> list[Entry]:
    """Pick the entries whose outcome needs no decision if their instances are unchanged.

    They touch no instance but their own, and nothing of the batch touches theirs. An instance that has mail
    is left to `decide`, which compares.
    """
    if any(entry.requests or entry.orders for entry in entries):
        return []
    with_mail = {key for (key,) in await tx.rows(instances.WITH_MAIL, session)}
    return [
        entry
        for entry in entries
        if not entry.consumed
        and not entry.silenced
        and entry.next_run is None
        and entry.shown is None
        and (entry.wake_at != LEAVE or entry.status.is_closed or is_advance(entry))
        and entry.key not in with_mail
    ]


async def write_plain(tx: SqliteTx, session: int, entries: Sequence[Entry]) -> bool:
    """Write plain entries without reading first, each on condition that it holds and has no mail.

    Agrees with `write_decided` where all conditions are met.

    Returns:
        Whether they were; if not, the caller must undo what was written.
    """
    advances: list[tuple[object, ...]] = []
    settlements: list[tuple[object, ...]] = []
    events: list[HistoryRow] = []
    for entry in entries:
        end = entry.seq + len(entry.notes)
        change = (
            end,
            end - entry.undrained,
            end > entry.seq,
            entry.key,
            session,
            entry.execution_id,
            entry.run,
            entry.seq,
            entry.inbox_seen,
            entry.inbox_seen,
        )
        if is_advance(entry):
            advances.append(change)
        else:
            settlements.append((*_settlement_of(session, entry, tx.now), *change, not entry.status.is_closed))
        events += events_of(entry)
    updated = 0
    if advances:
        updated += tx.connection.executemany(instances.ADVANCE_IF_UNCHANGED, advances).rowcount
    if settlements:
        updated += tx.connection.executemany(instances.SETTLE_IF_UNCHANGED, settlements).rowcount
    if updated < len(entries):
        return False
    await tx.write((history.INSERT, events))
    return True


def _settlement_of(session: int, entry: Entry, now: int) -> tuple[object, ...]:
    is_closed = entry.status.is_closed
    return (
        None if is_closed or entry.is_freed else session,
        entry.status,
        parked_until(entry, None, now, is_mailed=False),
        None if is_closed else entry.waiting_on,
        entry.reason,
        entry.build,
        entry.stamp if is_closed else None,
    )
