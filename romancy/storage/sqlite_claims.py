"""Instances change owners: claims, and what they find, on SQLite."""

from __future__ import annotations

import heapq
import json
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from romancy.core.events import Event
from romancy.core.records import Claim, Claims, Heartbeat, InboxItem, InboxKind, Instance, Mail, Status
from romancy.storage.sql import heartbeats, history, instances, messages
from romancy.storage.sqlite_sessions import fence

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_STATUS = Instance.__struct_fields__.index("status")


def instance_of(row: tuple[Any, ...]) -> Instance:
    """Make a value of an instance's columns."""
    values = list(row)
    values[_STATUS] = Status(values[_STATUS])
    return Instance(*values)


def item_of(row: Sequence[Any]) -> InboxItem:
    """Make a value of an inbox row's columns."""
    seq, kind, *others = row
    return InboxItem(seq, InboxKind(kind), *others)


def claim(
    connection: sqlite3.Connection,
    session: int,
    definitions: Sequence[tuple[str, str]],
    build: str,
    *,
    limit: int,
    now: int,
) -> Claims:
    """Claim instances, within a transaction; see `romancy.storage.protocol.Storage.claim`.

    Raises:
        SessionLostError: The session is dead.
    """
    fence(connection, session, now)
    served = json.dumps(sorted(set(definitions)))
    keys, next_due = _due(connection, served, build, limit=limit, now=now)
    if not keys:
        return Claims([], next_due)
    connection.executemany(instances.TAKE, [(session, now, session, build, key) for key in keys])
    return Claims(_taken(connection, keys), next_due)


def mail(connection: sqlite3.Connection, session: int) -> list[Mail]:
    """Read what the owned instances' inboxes hold beyond ``inbox_seen``, by one statement."""
    rows = connection.execute(messages.UNSEEN, (session,)).fetchall()
    return [
        Mail(key, execution_id, inbox_seq, [item_of(row[4:]) for row in group if row[4] is not None], Status(status))
        for (key, execution_id, inbox_seq, status), group in groupby(rows, key=lambda row: row[:4])
    ]


def _due(
    connection: sqlite3.Connection, served: str, build: str, *, limit: int, now: int
) -> tuple[list[int], int | None]:
    """Return the keys to take, best first, and when the next instance is due."""
    lanes = connection.execute(instances.LANES, (served, now)).fetchall()
    probes = [
        connection.execute(instances.DUE_IN_LANE, (workflow, version, priority, now))
        for workflow, version, priority, earliest, _ in lanes
        if earliest <= now
    ]
    if connection.execute(instances.HAS_BLOCKED).fetchone() is not None:
        blocked = connection.execute(instances.BLOCKED_LANES, (served, build)).fetchall()
        probes += [connection.execute(instances.BLOCKED_IN_LANE, (*lane, now)) for lane in blocked]
    # The cursors are read row by row, so a long queue costs no more than what is taken of it.
    due = list(islice(heapq.merge(*probes), limit + 1))
    for probe in probes:
        probe.close()
    if len(due) > limit:
        return [key for _, _, key in due[:limit]], now
    later = [wake_at for *_, wake_at in lanes if wake_at is not None]
    return [key for _, _, key in due], min(later, default=None)


def _taken(connection: sqlite3.Connection, keys: list[int]) -> list[Claim]:
    """Read instances with their histories, inboxes and heartbeats, in the order of the keys."""
    found = connection.execute(instances.BY_KEYS, (json.dumps(keys),))
    by_key = {row[0]: instance_of(row) for row in found}
    begun = json.dumps([key for key, it in by_key.items() if it.next_seq])
    events: dict[int, list[Event]] = {}
    for key, *event in connection.execute(history.OF_CURRENT_RUNS, (begun,)):
        events.setdefault(key, []).append(Event._make(event))
    addressed = json.dumps([key for key, it in by_key.items() if it.inbox_seq])
    items: dict[int, list[InboxItem]] = {}
    for key, *item in connection.execute(messages.OF_INSTANCES, (addressed,)):
        items.setdefault(key, []).append(item_of(item))
    beats: dict[int, list[Heartbeat]] = {}
    for row in connection.execute(heartbeats.OF_CURRENT_RUNS, (json.dumps(keys),)):
        beats.setdefault(row[0], []).append(Heartbeat(*row))
    return [Claim(by_key[key], events.get(key, []), items.get(key, []), beats.get(key, ())) for key in keys]
