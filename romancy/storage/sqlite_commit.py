"""A batch of entries, written to SQLite."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

import msgspec

from romancy.core.events import Event
from romancy.core.records import LEAVE, Accepted, Entry, NewInstance, Refused, Rejected, Shown, Status
from romancy.core.requests import Publish, Send, StartChild, Subscribe
from romancy.storage.decision import decide, events_of, has_mail, holds, is_advance
from romancy.storage.rows import ChannelRow, HistoryRow, Row, ShownRow, SubscriptionRow
from romancy.storage.sql import archives, children, heartbeats, history, instances, messages, tags, topics
from romancy.storage.sqlite_effects import Effects
from romancy.storage.sqlite_instances import insert
from romancy.storage.sqlite_sessions import fence
from romancy.storage.waking import parked_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from romancy.core.records import Heartbeat
    from romancy.storage.decision import Decision

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
_NOTHING_ASKED = Accepted([])


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
        return [_NOTHING_ASKED] * len(entries)
    written = {entry.key for entry in plain}
    others = iter(_write(connection, session, [e for e in entries if e.key not in written], now))
    answers = [_NOTHING_ASKED if entry.key in written else next(others) for entry in entries]
    return _with_mail(connection, entries, answers)


def beat(connection: sqlite3.Connection, session: int, beats: Sequence[Heartbeat], now: int) -> None:
    """Keep heartbeats, within a transaction; see `romancy.storage.protocol.Storage.beat`.

    Raises:
        SessionLostError: The session is dead; nothing is written.
    """
    fence(connection, session, now)
    values = [(b.activity_id, b.attempt, b.details, b.key, session, b.execution_id, b.run) for b in beats]
    connection.executemany(heartbeats.PUT, values)


def plain_of(connection: sqlite3.Connection, session: int, entries: Sequence[Entry]) -> list[Entry]:
    """Pick the entries whose outcome needs no decision if their instances are unchanged.

    They touch no instance but their own, and nothing of the batch touches theirs. An instance that has mail
    is left to `decide`, which compares.
    """
    if any(entry.requests or entry.orders for entry in entries):
        return []
    with_mail = {key for (key,) in connection.execute(instances.WITH_MAIL, (session,))}
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
            settlements.append((*_settlement_of(session, entry, now), *change, not entry.status.is_closed))
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


def still_holds(connection: sqlite3.Connection, session: int, entry: Entry) -> bool:
    """Say whether an entry holds as things stand."""
    return holds(session, entry, _rows(connection, instances.ROWS_BY_KEYS, [entry.key]).get(entry.key))


def write_decided(connection: sqlite3.Connection, session: int, entries: Sequence[Entry], now: int) -> list[Answer]:
    """Read what the entries touch, decide, and write what was decided."""
    rows = _rows(connection, instances.ROWS_BY_KEYS, [entry.key for entry in entries])
    holding = [entry for entry in entries if holds(session, entry, rows.get(entry.key))]
    held = {entry.key for entry in holding}
    _insert_children(connection, holding, now)
    targets = _rows(connection, instances.ROWS_BY_IDS, _targets(entries))
    recorded = {
        entry.key: _recorded(connection, entry) for entry in entries if entry.key in rows and entry.key not in held
    }
    channels, subscriptions = _channels(connection, holding)
    decision = decide(
        session,
        entries,
        rows | targets,
        {row.id: row.key for row in targets.values()},
        recorded=recorded,
        now=now,
        channels=channels,
        subscriptions=subscriptions,
    )
    for statement, values in (
        (instances.ADVANCE, decision.advances),
        (instances.SETTLE, decision.settlements),
        (instances.REACH, decision.reaches),
        (instances.OPEN_RUN, decision.openings),
        (archives.INSERT, decision.archives),
        (history.INSERT, decision.events),
        (messages.DELETE_ONE, decision.consumed),
        (messages.INSERT, decision.messages),
        (topics.WRITE_CHANNEL, decision.topics.changed()),
        (topics.PUBLISH, decision.topics.publications),
        (topics.SUBSCRIBE, decision.topics.subscriptions),
        (topics.TAKE_OVER, [(row.run, row.channel, row.key, row.mailbox) for row in decision.topics.taken_over]),
        (children.LINK, decision.children),
        (instances.TIE, [(key,) for key in _tied(decision)]),
        (heartbeats.DELETE_ONE, decision.silenced),
    ):
        if values:
            connection.executemany(statement, values)
    for key, shown in decision.shown:
        _show(connection, key, shown)
    return _with_effects(connection, entries, decision, now)


def _with_effects(
    connection: sqlite3.Connection, entries: Sequence[Entry], decision: Decision, now: int
) -> list[Answer]:
    """Do what a decision means beyond its entries' own instances, and add to the answers whom that has reached."""
    answers: list[Answer] = list(decision.answers)
    attached = [link.child for link in decision.children]
    if not (decision.orders or decision.openings or decision.closings or attached):
        return answers
    effects = Effects(connection, now)
    for opening in decision.openings:
        effects.begin_run(opening.key)
    effects.obey(decision.orders)
    for key in decision.closings:
        effects.conclude(key)
    for key, status in connection.execute(instances.STATUSES, (json.dumps(attached),)).fetchall():
        if status >= Status.COMPLETED:
            effects.tell_parents(key)
    first = next((index for index, answer in enumerate(answers) if isinstance(answer, Accepted)), None)
    if first is not None and (effects.reached or effects.has_topics or effects.ended):
        answer = cast("Accepted", answers[first])
        recipients = dict.fromkeys((*answer.recipients, *sorted(effects.reached)))
        recipients.pop(entries[first].key, None)
        has_topics = answer.has_topics or effects.has_topics
        answers[first] = msgspec.structs.replace(
            answer, recipients=tuple(recipients), has_topics=has_topics, ended=tuple(effects.ended)
        )
    return _with_mail(connection, entries, answers) if effects.reached else answers


def _with_mail(connection: sqlite3.Connection, entries: Sequence[Entry], answers: Sequence[Answer]) -> list[Answer]:
    """Tell again who has mail: an entry may have got some from one that was written after it."""
    rows = _rows(connection, instances.ROWS_BY_KEYS, [entry.key for entry in entries])
    return [
        msgspec.structs.replace(answer, mailed=has_mail(rows[entry.key])) if isinstance(answer, Accepted) else answer
        for entry, answer in zip(entries, answers, strict=True)
    ]


def _targets(entries: Sequence[Entry]) -> list[str]:
    """Return the ids of the instances that entries send to or start."""
    found: list[str] = []
    for entry in entries:
        for request in entry.requests:
            match request:
                case Send(to=id) | StartChild(id=id):
                    found.append(id)
                case _:
                    continue
    return found


def _insert_children(connection: sqlite3.Connection, entries: Sequence[Entry], now: int) -> None:
    """Create the children that entries start, in the order of their ids; nothing where an id is taken."""
    starts = [
        (request, entry.key) for entry in entries for request in entry.requests if isinstance(request, StartChild)
    ]
    for request, parent in sorted(starts, key=lambda start: start[0].id):
        new = NewInstance(
            id=request.id,
            execution_id=request.execution_id,
            workflow=request.workflow,
            version=request.version,
            input=request.input,
            wake_at=now,
            parent=parent,
        )
        insert(connection, new, now)


def _channels(
    connection: sqlite3.Connection, entries: Sequence[Entry]
) -> tuple[dict[str, ChannelRow], list[SubscriptionRow]]:
    """Read the channels that entries name in requests, and the subscriptions of those that subscribe."""
    named: dict[str, None] = {}
    subscribing: dict[int, None] = {}
    for entry in entries:
        for request in entry.requests:
            if isinstance(request, Send | Publish | Subscribe):
                named[request.channel] = None
            if isinstance(request, Subscribe):
                subscribing[entry.key] = None
    if not named:
        return {}, []
    channels = connection.execute(topics.CHANNELS, (json.dumps(list(named)),))
    found = connection.execute(topics.SUBSCRIPTIONS_OF, (json.dumps(list(subscribing)),)) if subscribing else ()
    return {row[0]: ChannelRow._make(row) for row in channels}, [SubscriptionRow._make(row) for row in found]


def _tied(decision: Decision) -> set[int]:
    """Return the instances whose end concerns others from now on."""
    tied = {row.key for row in decision.topics.subscriptions}
    for link in decision.children:
        tied |= {link.parent, link.child}
    return tied


def _show(connection: sqlite3.Connection, key: int, shown: Shown) -> None:
    """Write what an instance shows: its row's JSON for reading, and a row per tag for finding it."""
    changed = shown.tags or {}
    connection.execute(instances.SHOW, ShownRow(shown.custom_status, json.dumps(changed), key))
    connection.executemany(tags.SET, [(key, name, value) for name, value in changed.items() if value is not None])
    connection.executemany(tags.REMOVE, [(key, name) for name, value in changed.items() if value is None])


def _write(connection: sqlite3.Connection, session: int, entries: Sequence[Entry], now: int) -> list[Answer]:
    """Write entries together, or one by one when something in one of them is refused."""
    answers = _attempt(connection, lambda: write_decided(connection, session, entries, now))
    if isinstance(answers, list):
        return answers
    return _with_mail(connection, entries, [_write_alone(connection, session, entry, now) for entry in entries])


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
    end = entry.seq + len(entry.notes) + len(entry.requests)
    found = connection.execute(history.SLICE, (entry.key, entry.run, entry.seq, end))
    return [Event._make(row) for row in found]
