"""Instances as clients see them: start, post, terminate, purge, list, on SQLite."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal, cast

from romancy.core.events import EventKind
from romancy.core.records import Creation, Instance, InstanceFilter, NewInstance, Post, PostResult, Status
from romancy.errors import (
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
)
from romancy.storage.decision import wake_for_mail
from romancy.storage.rows import HistoryRow, MessageRow, Reach
from romancy.storage.sql import history, instances, messages, sessions
from romancy.storage.sqlite_claims import instance_of

if TYPE_CHECKING:
    import sqlite3

_LAST_CHARACTER = chr(sys.maxunicode)


def get(connection: sqlite3.Connection, id: str) -> Instance | None:
    """Read an instance's row."""
    row = connection.execute(instances.BY_ID, (id,)).fetchone()
    return None if row is None else instance_of(row)


def create(
    connection: sqlite3.Connection,
    new: NewInstance,
    on_conflict: Literal["raise", "attach", "restart"],
    now: int,
) -> Creation:
    """Create an instance, within a transaction; see `romancy.storage.protocol.Storage.create`.

    Raises:
        InstanceAlreadyExistsError: The id is taken, and ``on_conflict`` is ``"raise"``.
        InstanceRunningError: ``"restart"``, and the instance has not ended.
    """
    created = _insert(connection, new, now)
    if created is not None:
        return Creation(created, is_new=True)
    existing = get(connection, new.id)
    if existing is None:
        raise RuntimeError(f"instance {new.id!r} is there and is not")
    if existing.execution_id == new.execution_id:
        return Creation(existing, is_new=True)
    match on_conflict:
        case "raise":
            raise InstanceAlreadyExistsError(
                f"instance {new.id!r} exists already; choose another id, or pass on_conflict="
            )
        case "attach":
            return Creation(existing, is_new=False)
        case "restart":
            _purge(connection, existing)
            return create(connection, new, "raise", now)


def _insert(connection: sqlite3.Connection, new: NewInstance, now: int) -> Instance | None:
    """Insert a row, owned if its session is live; None if the id is taken."""
    session = new.session
    owner = None if session is None else connection.execute(sessions.IS_LIVE, (session, now)).fetchone()
    if owner is None:
        session = None
    values = cast("dict[str, object]", dict.fromkeys(Instance.__struct_fields__))
    values |= dict.fromkeys(("run", "next_seq", "drained_seq", "inbox_seq", "inbox_seen", "recoveries"), 0)
    values |= {
        "id": new.id,
        "execution_id": new.execution_id,
        "workflow": new.workflow,
        "version": new.version,
        "input": new.input,
        "wake_at": new.wake_at,
        "trace_context": new.trace_context,
        "created_at": now,
        "status": Status.PENDING if session is None else Status.RUNNING,
        "session": session,
        "started_at": None if session is None else now,
        "runtime": None if owner is None else owner[0],
    }
    inserted = connection.execute(instances.INSERT, [values[name] for name in instances.NEW])
    if not inserted.rowcount:
        return None
    values["key"] = inserted.lastrowid
    return Instance(**cast("Any", values))


def post(connection: sqlite3.Connection, item: Post, now: int) -> PostResult:
    """Put an item into an inbox, within a transaction; see `romancy.storage.protocol.Storage.post`."""
    target = get(connection, item.to)
    if target is None:
        return PostResult.NOT_FOUND
    delivery = (target.key, item.message_id)
    if connection.execute(messages.IS_DELIVERED, delivery).fetchone() is not None:
        return PostResult.DUPLICATE
    if target.status.is_closed:
        return PostResult.CLOSED
    seq = target.inbox_seq + 1
    wake_at = wake_for_mail(target.status, target.wake_at, now, item.kind)
    connection.execute(instances.REACH, Reach(seq, wake_at, target.key))
    connection.execute(
        messages.INSERT,
        MessageRow(target.key, seq, item.kind, item.channel, item.message_id, item.sender, item.body, now),
    )
    connection.execute(messages.INSERT_DELIVERY, (*delivery, now))
    return PostResult.POSTED


def terminate(connection: sqlite3.Connection, id: str, failure: bytes, now: int) -> None:
    """End an instance, within a transaction; see `romancy.storage.protocol.Storage.terminate`.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceClosedError: It has ended already.
    """
    target = _existing(connection, id)
    if target.status.is_closed:
        raise InstanceClosedError(f"instance {id!r} has ended already: it is {target.status.name.lower()}")
    last = connection.execute(history.LAST_TURN, (target.key, target.run)).fetchone()
    turn = 1 + (0 if last is None else last[0])
    event = HistoryRow(target.key, target.run, target.next_seq, turn, now, EventKind.RUN_TERMINATED, None, failure)
    connection.execute(history.INSERT, event)
    connection.execute(instances.END, (Status.TERMINATED, now, target.key))


def purge(connection: sqlite3.Connection, id: str) -> None:
    """Delete an instance that has ended, within a transaction.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceRunningError: It has not ended.
    """
    _purge(connection, _existing(connection, id))


def page(connection: sqlite3.Connection, where: InstanceFilter, after: int, limit: int) -> list[Instance]:
    """Read instances in the order of their keys."""
    statement = instances.listing(
        has_workflow=where.workflow is not None,
        has_statuses=where.statuses is not None,
        has_prefix=bool(where.id_prefix),
    )
    values: list[object] = [after]
    if where.workflow is not None:
        values.append(where.workflow)
    if where.statuses is not None:
        values.append(json.dumps(sorted(where.statuses)))
    if where.id_prefix:
        values += [where.id_prefix, where.id_prefix + _LAST_CHARACTER]
    return [instance_of(row) for row in connection.execute(statement, (*values, limit))]


def _existing(connection: sqlite3.Connection, id: str) -> Instance:
    found = get(connection, id)
    if found is None:
        raise InstanceNotFoundError(f"no instance has the id {id!r}")
    return found


def _purge(connection: sqlite3.Connection, target: Instance) -> None:
    if not target.status.is_closed:
        raise InstanceRunningError(
            f"instance {target.id!r} has not ended: it is {target.status.name.lower()}; terminate it first"
        )
    for statement in (history.DELETE, messages.DELETE, messages.DELETE_DELIVERIES, instances.DELETE):
        connection.execute(statement, (target.key,))
