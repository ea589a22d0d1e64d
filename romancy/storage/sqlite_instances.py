"""Instances as clients see them: start, post, terminate, purge, list, on SQLite."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal, cast

from romancy.core.records import Creation, InboxKind, Instance, InstanceFilter, NewInstance, Post, PostResult, Status
from romancy.core.requests import ChannelMode
from romancy.errors import (
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
    WorkflowBlockedError,
)
from romancy.storage.rows import ChannelRow, MessageRow, Row
from romancy.storage.sql import archives, children, heartbeats, history, instances, messages, sessions, tags, topics
from romancy.storage.sqlite_claims import instance_of
from romancy.storage.sqlite_effects import Effects

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

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
    created = insert(connection, new, now)
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


def insert(connection: sqlite3.Connection, new: NewInstance, now: int) -> Instance | None:
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
        "deadline": new.deadline,
        "created_at": now,
        "status": Status.PENDING if session is None else Status.RUNNING,
        "session": session,
        "started_at": None if session is None else now,
        "runtime": None if owner is None else owner[0],
        "parent": new.parent,
        "ties": int(new.parent is not None),
        "priority": new.priority,
        "tags": json.dumps(new.tags) if new.tags else None,
        "begun_by": None if owner is None else owner[1],
    }
    inserted = connection.execute(instances.INSERT, [values[name] for name in instances.NEW])
    if not inserted.rowcount:
        return None
    values["key"] = inserted.lastrowid
    del values["parent"], values["ties"]
    if new.tags:
        rows = [(inserted.lastrowid, name, value) for name, value in new.tags.items()]
        connection.executemany(tags.SET, rows)
    return Instance(**cast("Any", values))


def post(connection: sqlite3.Connection, posts: Sequence[Post], now: int) -> list[PostResult]:
    """Put items into inboxes, within a transaction; see `romancy.storage.protocol.Storage.post`."""
    results = [_judge(connection, item) for item in posts]
    if all(result in {PostResult.POSTED, PostResult.DUPLICATE} for result in results):
        effects = Effects(connection, now)
        results = [_deliver(connection, item, effects, now) for item in posts]
    return results


def _judge(connection: sqlite3.Connection, item: Post) -> PostResult:
    """Say what would become of a post, and write nothing."""
    target = _row(connection, item.to)
    if target is None or item.execution_id not in {None, target.execution_id}:
        return PostResult.NOT_FOUND
    if connection.execute(messages.IS_DELIVERED, (target.key, item.message_id)).fetchone() is not None:
        return PostResult.DUPLICATE
    if target.status >= Status.COMPLETED:
        return PostResult.CLOSED
    if item.kind is not InboxKind.MESSAGE or item.channel is None:
        return PostResult.POSTED
    found = connection.execute(topics.CHANNELS, (json.dumps([item.channel]),)).fetchone()
    is_direct = found is None or ChannelRow._make(found).mode == ChannelMode.DIRECT
    return PostResult.POSTED if is_direct else PostResult.OTHER_MODE


def _deliver(connection: sqlite3.Connection, item: Post, effects: Effects, now: int) -> PostResult:
    target = _row(connection, item.to)
    delivery = (target.key if target is not None else 0, item.message_id)
    if target is None or connection.execute(messages.IS_DELIVERED, delivery).fetchone() is not None:
        return PostResult.DUPLICATE
    row = MessageRow(target.key, 0, item.kind, item.channel, item.message_id, item.sender, item.body, now, item.headers)
    effects.put(target, row, kind=item.kind)
    if item.kind is InboxKind.MESSAGE and item.channel is not None:
        connection.execute(topics.ADD_CHANNEL, ChannelRow(item.channel, ChannelMode.DIRECT, 0, 0, 0))
    connection.execute(messages.INSERT_DELIVERY, (*delivery, now))
    return PostResult.POSTED


def _row(connection: sqlite3.Connection, id: str) -> Row | None:
    found = connection.execute(instances.ROWS_BY_IDS, (json.dumps([id]),)).fetchone()
    row = None if found is None else Row._make(found)
    return None if row is None or row.id != id else row  # SQLite reads a JSON text up to its first null character


def terminate(connection: sqlite3.Connection, id: str, failure: bytes, now: int, *, is_recursive: bool) -> list[int]:
    """End an instance, within a transaction; see `romancy.storage.protocol.Storage.terminate`.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceClosedError: It has ended already, and so have its children.
    """
    target = _existing(connection, id)
    effects = Effects(connection, now)
    if not target.status.is_closed:
        effects.terminate(target.key, failure)
    if is_recursive or not target.status.is_closed:
        effects.conclude(target.key, is_forced=is_recursive)
    if not effects.ended:
        raise InstanceClosedError(f"instance {id!r} has ended already: it is {target.status.name.lower()}")
    return effects.ended


def pause(connection: sqlite3.Connection, id: str) -> None:
    """Pause an instance, within a transaction; see `romancy.storage.protocol.Storage.pause`.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceClosedError: It has ended.
        WorkflowBlockedError: It is blocked.
    """
    if connection.execute(instances.PAUSE, (id,)).rowcount:
        return
    target = _existing(connection, id)
    if target.status.is_closed:
        raise InstanceClosedError(f"instance {id!r} has ended: it can't be paused")
    if target.status is Status.BLOCKED:
        reason = f"instance {id!r} is blocked already, so nothing of it runs: it can't be paused"
        raise WorkflowBlockedError(reason, reason)


def unpause(connection: sqlite3.Connection, id: str, now: int) -> None:
    """Let a paused instance go on, within a transaction; nothing if it is not paused.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceClosedError: It has ended.
    """
    if connection.execute(instances.UNPAUSE, (now, id)).rowcount:
        return
    if _existing(connection, id).status.is_closed:
        raise InstanceClosedError(f"instance {id!r} has ended: it can't go on")


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
        has_custom_status=where.custom_status is not None,
        tags=len(where.tags),
    )
    values: list[object] = [part for tag in where.tags.items() for part in tag]
    values.append(after)
    if where.workflow is not None:
        values.append(where.workflow)
    if where.statuses is not None:
        values.append(json.dumps(sorted(where.statuses)))
    if where.id_prefix:
        values += [where.id_prefix, where.id_prefix + _LAST_CHARACTER]
    if where.custom_status is not None:
        values.append(where.custom_status)
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
    for statement in (
        history.DELETE,
        archives.DELETE,
        messages.DELETE,
        messages.DELETE_DELIVERIES,
        children.DELETE_OF_PARENT,
        children.DELETE_OF_CHILD,
        heartbeats.DELETE,
        tags.DELETE,
        instances.DELETE,
    ):
        connection.execute(statement, (target.key,))
