"""A batch of entries, written to SQLite."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from romancy.core.events import Event
from romancy.core.records import LEAVE, Accepted, Entry, Refused, Rejected
from romancy.errors import SessionLostError
from romancy.storage.decision import decide, events_of, has_mail, holds, is_advance, parked_until
from romancy.storage.rows import HistoryRow, Row
from romancy.storage.sql import history, instances, messages, sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
Answer: TypeAlias = Accepted | Rejected | Refused

# What SQLite, or its Python module, says of a value that it can't take. Anything else is about the database.
_REFUSALS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)
_NOTHING_SENT = Accepted([])


def fence(connection: sqlite3.Connection, session: int, now: int) -> None:
    """Make sure that a session is live, within the transaction that relies on it.

    Raises:
        SessionLostError: It is not.
    """
    if connection.execute(sessions.IS_LIVE, (session, now)).fetchone() is None:
        raise SessionLostError(f"session {session} has expired or was closed: it owns nothing any more")


def commit(connection: sqlite3.Connection, session: int, entries: Sequence[Entry], now: int) -> list[Answer]:
    """Write entries, within a transaction; see `romancy.storage.protocol.Storage.commit`.

    Raises:
        SessionLostError: The session is dead; nothing is written.
    """
    fence(connection, session, now)
    if len({entry.key for entry in entries}) < len(entries):
        raise ValueError("a commit takes at most one entry per instance")
    plain = plain_of(connection, session, entries)
    if not plain or _attempt(connection, lambda: write_plain(connection, session, plain, now)) is not True:
        return _write(connection, session, entries, now)
    if len(plain) == len(entries):
        return [_NOTHING_SENT] * len(entries)
    written = {entry.key for entry in plain}
    others = iter(_write(connection, session, [e for e in entries if e.key not in written], now))
    return [_NOTHING_SENT if entry.key in written else next(others) for entry in entries]


def plain_of(connection: sqlite3.Connection, session: int, entries: Sequence[Entry]) -> list[Entry]:
    """Pick the entries whose outcome needs no decision if their instances are unchanged.

    They touch no instance but their own, and nothing of the batch touches theirs. An instance that has mail
    is left to `decide`, which compares.
    """
    if any(entry.sends for entry in entries):
        return []
    with_mail = {key for (key,) in connection.execute(instances.WITH_MAIL, (session,))}
    return [
        entry
        for entry in entries
        if not entry.consumed
        and entry.next_run is None
        and (entry.wake_at != LEAVE or entry.status.is_closed or is_advance(entry))
        and entry.key not in with_mail
    ]


def write_plain(connection: sqlite3.Connection, session: int, entries: Sequence[Entry], now: int) -> bool:
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
            settlements.append((*_settlement_of(session, entry, now), *change))
        events += events_of(entry)
    updated = 0
    if advances:
        updated += connection.executemany(instances.ADVANCE_IF_UNCHANGED, advances).rowcount
    if settlements:
        updated += connection.executemany(instances.SETTLE_IF_UNCHANGED, settlements).rowcount
    if updated < len(entries):
        return False
    connection.executemany(history.INSERT, events)
    return True


def write_decided(connection: sqlite3.Connection, session: int, entries: Sequence[Entry], now: int) -> list[Answer]:
    """Read what the entries touch, decide, and write what was decided."""
    rows = _rows(connection, instances.ROWS_BY_KEYS, [entry.key for entry in entries])
    targets = _rows(connection, instances.ROWS_BY_IDS, [send.to for entry in entries for send in entry.sends])
    recorded = {
        entry.key: _recorded(connection, entry)
        for entry in entries
        if entry.key in rows and not holds(session, entry, rows[entry.key])
    }
    decision = decide(
        session,
        entries,
        rows | targets,
        {row.id: row.key for row in targets.values()},
        recorded=recorded,
        now=now,
    )
    for statement, values in (
        (instances.ADVANCE, decision.advances),
        (instances.SETTLE, decision.settlements),
        (instances.REACH, decision.reaches),
        (instances.OPEN_RUN, decision.openings),
        (history.INSERT, decision.events),
        (messages.DELETE_ONE, decision.consumed),
        (messages.INSERT, decision.messages),
    ):
        if values:
            connection.executemany(statement, values)
    return list(decision.answers)


def _write(connection: sqlite3.Connection, session: int, entries: Sequence[Entry], now: int) -> list[Answer]:
    """Write entries together, or one by one when something in one of them is refused."""
    answers = _attempt(connection, lambda: write_decided(connection, session, entries, now))
    if isinstance(answers, list):
        return answers
    answers = [_write_alone(connection, session, entry, now) for entry in entries]
    rows = _rows(connection, instances.ROWS_BY_KEYS, [entry.key for entry in entries])
    # An entry may have got mail from one that was written after it.
    return [
        msgspec.structs.replace(answer, mailed=has_mail(rows[entry.key])) if isinstance(answer, Accepted) else answer
        for entry, answer in zip(entries, answers, strict=True)
    ]


def _write_alone(connection: sqlite3.Connection, session: int, entry: Entry, now: int) -> Answer:
    answers = _attempt(connection, lambda: write_decided(connection, session, [entry], now))
    return answers[0] if isinstance(answers, list) else answers


def _attempt(connection: sqlite3.Connection, write: Callable[[], T]) -> T | Refused:
    """Write within a savepoint, and undo it if a value is refused or the result is false."""
    connection.execute("SAVEPOINT attempt")
    result: T | Refused
    try:
        result = write()
    except _REFUSALS as error:
        result = Refused(f"{type(error).__name__}: {error}")
    if not result or isinstance(result, Refused):
        connection.execute("ROLLBACK TO attempt")
    connection.execute("RELEASE attempt")
    return result


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


def _rows(connection: sqlite3.Connection, statement: str, chosen: Sequence[int | str]) -> dict[int, Row]:
    if not chosen:
        return {}
    found = connection.execute(statement, (json.dumps(chosen),))
    return {row[0]: Row._make(row) for row in found}


def _recorded(connection: sqlite3.Connection, entry: Entry) -> list[Event]:
    end = entry.seq + len(entry.notes) + len(entry.sends)
    found = connection.execute(history.SLICE, (entry.key, entry.run, entry.seq, end))
    return [Event._make(row) for row in found]
