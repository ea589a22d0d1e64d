"""Instances as clients see them: start, post, terminate, purge, list."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal, cast

from romancy.core.records import (
    ChildLink,
    Creation,
    InboxKind,
    Instance,
    InstanceFilter,
    NewInstance,
    OpenCounts,
    Post,
    PostResult,
    Standing,
    Status,
)
from romancy.core.requests import ChannelMode, ParentClosePolicy
from romancy.errors import (
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
    StorageError,
    WorkflowBlockedError,
)
from romancy.storage.claims import instance_of
from romancy.storage.effects import Effects
from romancy.storage.rows import ChannelRow, ChildRow, MessageRow, Reach, Row
from romancy.storage.sql import archives, children, heartbeats, history, instances, messages, sessions, tags, topics
from romancy.storage.waking import with_mail

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from romancy.storage.tx import Tx

_ATTEMPTS = 10
_LAST_CHARACTER = chr(sys.maxunicode)


async def get(tx: Tx, id: str) -> Instance | None:
    """Read an instance's row."""
    row = await tx.row(instances.BY_ID, id)
    return None if row is None else instance_of(row)


async def create(tx: Tx, new: NewInstance, on_conflict: Literal["raise", "attach", "restart"]) -> Creation:
    """Create an instance; see `romancy.storage.protocol.Storage.create`.

    Raises:
        InstanceAlreadyExistsError: The id is taken, and ``on_conflict`` is ``"raise"``.
        InstanceRunningError: ``"restart"``, and the instance has not ended.
    """
    for _ in range(_ATTEMPTS):
        for created in await insert(tx, [new]):
            return Creation(created, is_new=True)
        if on_conflict == "restart":
            await tx.lock(ids=[new.id])
        existing = await get(tx, new.id)
        if existing is None:
            continue  # somebody else has purged or restarted it just now
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
                await purge(tx, existing.id, is_recursive=False)
    raise StorageError(f"instance {new.id!r} was started and purged by others again and again; try again")


async def insert(tx: Tx, news: Sequence[NewInstance]) -> list[Instance]:
    """Insert instances in the order of their ids, each owned if its session is live; return those whose ids were free.

    They are locked, and whatever is locked after them is behind them in the order of locks.
    """
    owners = {
        session: await tx.row(sessions.FENCE, tx.present, session)
        for session in sorted({new.session for new in news if new.session is not None})
    }
    values = {
        new.execution_id: _values(new, None if new.session is None else owners[new.session], tx.now)
        for new in sorted(news, key=lambda new: new.id)
    }
    rows = [[row[name] for name in instances.NEW] for row in values.values()]
    inserted: list[Instance] = []
    tagged: list[tuple[int, str, str]] = []
    tags_of = {new.execution_id: new.tags for new in news if new.tags}
    for key, execution_id in await tx.insert(instances.INSERT, rows):
        row = values[execution_id] | {"key": key}
        del row["parent"], row["ties"]
        inserted.append(Instance(**cast("Any", row)))
        tagged += [(key, name, value) for name, value in tags_of.get(execution_id, {}).items()]
    await tx.write((tags.SET, tagged))
    return inserted


def _values(new: NewInstance, owner: tuple[str, str] | None, now: int) -> dict[str, object]:
    """Return the columns of a new instance, owned if its owner's runtime and build are given."""
    values = cast("dict[str, object]", dict.fromkeys(Instance.__struct_fields__))
    values |= dict.fromkeys(("run", "next_seq", "drained_seq", "inbox_seq", "inbox_seen", "recoveries"), 0)
    return values | {
        "id": new.id,
        "execution_id": new.execution_id,
        "workflow": new.workflow,
        "version": new.version,
        "input": new.input,
        "wake_at": new.wake_at,
        "trace_context": new.trace_context,
        "deadline": new.deadline,
        "created_at": now,
        "status": Status.PENDING if owner is None else Status.RUNNING,
        "session": None if owner is None else new.session,
        "started_at": None if owner is None else now,
        "runtime": None if owner is None else owner[0],
        "parent": new.parent,
        "ties": int(new.parent is not None),
        "priority": new.priority,
        "tags": json.dumps(new.tags) if new.tags else None,
        "begun_by": None if owner is None else owner[1],
    }


async def post(tx: Tx, posts: Sequence[Post]) -> list[PostResult]:
    """Put items into inboxes; see `romancy.storage.protocol.Storage.post`."""
    targets = {row.id: row for row in (await tx.lock(ids=dict.fromkeys(item.to for item in posts))).values()}
    named = {item.channel for item in posts if item.kind is InboxKind.MESSAGE and item.channel is not None}
    channels = await tx.channels(named)
    results = [await _judge(tx, item, targets.get(item.to), channels) for item in posts]
    if not all(result in {PostResult.POSTED, PostResult.DUPLICATE} for result in results):
        return results
    rows: list[MessageRow] = []
    deliveries: dict[tuple[int, str], tuple[int, str, int]] = {}
    for index, (item, result) in enumerate(zip(posts, results, strict=True)):
        delivery = (targets[item.to].key, item.message_id)
        if result is PostResult.DUPLICATE or delivery in deliveries:
            results[index] = PostResult.DUPLICATE
            continue
        target = targets[item.to] = with_mail(targets[item.to], tx.now, item.kind)
        place = (target.key, target.inbox_seq, item.kind)
        rows.append(MessageRow(*place, item.channel, item.message_id, item.sender, item.body, tx.now, item.headers))
        deliveries[delivery] = (*delivery, tx.now)
    reached = {row.key for row in rows}
    added = [ChannelRow(name, ChannelMode.DIRECT, 0, 0, 0) for name in sorted(named - channels.keys())]
    await tx.write(
        (instances.REACH, [Reach(t.inbox_seq, t.wake_at, t.key) for t in targets.values() if t.key in reached]),
        (messages.INSERT, rows),
        (messages.INSERT_DELIVERY, list(deliveries.values())),
        (topics.ADD_CHANNEL, added),
    )
    return results


async def _judge(tx: Tx, item: Post, target: Row | None, channels: Mapping[str, ChannelRow]) -> PostResult:
    """Say what would become of a post, and write nothing."""
    if target is None or item.execution_id not in {None, target.execution_id}:
        return PostResult.NOT_FOUND
    if await tx.row(messages.IS_DELIVERED, target.key, item.message_id) is not None:
        return PostResult.DUPLICATE
    if target.status >= Status.COMPLETED:
        return PostResult.CLOSED
    if item.kind is not InboxKind.MESSAGE or item.channel is None:
        return PostResult.POSTED
    channel = channels.get(item.channel)
    return PostResult.POSTED if channel is None or channel.mode == ChannelMode.DIRECT else PostResult.OTHER_MODE


async def terminate(tx: Tx, id: str, failure: bytes, *, is_recursive: bool) -> list[int]:
    """End an instance; see `romancy.storage.protocol.Storage.terminate`.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceClosedError: It has ended already, and so have its children.
    """
    target = await locked(tx, id)
    effects = Effects(tx)
    is_closed = target.status >= Status.COMPLETED
    if not is_closed:
        await effects.terminate(target, failure)
    if is_recursive or not is_closed:
        await effects.conclude(target.key, is_forced=is_recursive)
    if not effects.ended:
        last = await tx.row(history.LAST_PAYLOAD, target.key, target.key) if tx.may_be_done else None
        if last is not None and last[0] == failure:
            return [target.key]  # it was this that has ended it
        raise InstanceClosedError(f"instance {id!r} has ended already: it is {Status(target.status).name.lower()}")
    return effects.ended


async def pause(tx: Tx, id: str) -> None:
    """Pause an instance; see `romancy.storage.protocol.Storage.pause`.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceClosedError: It has ended.
        WorkflowBlockedError: It is blocked.
    """
    target = await locked(tx, id)
    if target.status >= Status.COMPLETED:
        raise InstanceClosedError(f"instance {id!r} has ended: it can't be paused")
    if target.status == Status.BLOCKED:
        reason = f"instance {id!r} is blocked already, so nothing of it runs: it can't be paused"
        raise WorkflowBlockedError(reason, reason)
    await tx.run(instances.PAUSE, id)


async def unpause(tx: Tx, id: str) -> None:
    """Let a paused instance go on; nothing if it is not paused.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceClosedError: It has ended.
    """
    if (await locked(tx, id)).status >= Status.COMPLETED:
        raise InstanceClosedError(f"instance {id!r} has ended: it can't go on")
    await tx.run(instances.UNPAUSE, tx.now, id)


async def purge(tx: Tx, id: str, *, is_recursive: bool) -> list[int]:
    """Delete an instance that has ended; see `romancy.storage.protocol.Storage.purge`.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceRunningError: It, or what it has started, has not ended.
    """
    try:
        target = await locked(tx, id)
    except InstanceNotFoundError:
        if tx.may_be_done:
            return []  # it was this that has purged it
        raise
    rows = {target.key: target}
    todo = [target.key] if is_recursive else []
    while todo:
        links = [ChildRow._make(link) for link in await tx.rows(children.OF_PARENT, todo.pop())]
        kept = {link.child for link in links if link.policy != ParentClosePolicy.ABANDON} - rows.keys()
        found = await tx.lock(sorted(kept)) if kept else {}
        rows |= found
        todo += found
    for row in rows.values():
        if row.status < Status.COMPLETED:
            started = "" if row.key == target.key else f", which {id!r} has started,"
            status = Status(row.status).name.lower()
            raise InstanceRunningError(
                f"instance {row.id!r}{started} has not ended: it is {status}; terminate it first"
            )
    for key in rows:
        await delete(tx, key)
    return list(rows)


async def page(tx: Tx, where: InstanceFilter, after: int, limit: int) -> list[Instance]:
    """Read instances in the order of their keys."""
    found = await tx.rows(instances.listing(**_terms_of(where)), *_values_of(where, after), limit)
    return [instance_of(row) for row in found]


async def count(tx: Tx, where: InstanceFilter, after: int) -> int:
    """Count the instances that a filter admits."""
    row = await tx.row(instances.counting(**_terms_of(where)), *_values_of(where, after))
    return 0 if row is None else row[0]


def _terms_of(where: InstanceFilter) -> dict[str, Any]:
    return {
        "has_workflow": where.workflow is not None,
        "has_statuses": where.statuses is not None,
        "has_prefix": bool(where.id_prefix),
        "has_custom_status": where.custom_status is not None,
        "tags": len(where.tags),
    }


def _values_of(where: InstanceFilter, after: int) -> list[object]:
    values: list[object] = [part for tag in where.tags.items() for part in tag]
    values.append(after)
    if where.workflow is not None:
        values.append(where.workflow)
    if where.statuses is not None:
        values.append(sorted(where.statuses))
    if where.id_prefix:
        values += [where.id_prefix, where.id_prefix + _LAST_CHARACTER]
    if where.custom_status is not None:
        values.append(where.custom_status)
    return values


async def get_many(tx: Tx, keys: Sequence[int]) -> list[Instance]:
    """Read instances' rows, in the order of their keys; a purged one is missing."""
    return sorted((instance_of(row) for row in await tx.rows(instances.BY_KEYS, list(keys))), key=lambda it: it.key)


async def links(tx: Tx, key: int) -> list[ChildLink]:
    """Read the children of an instance."""
    rows = await tx.rows(children.LINKS, key)
    return [
        ChildLink(run, activity_id, child, id, workflow, Status(status), policy)
        for run, activity_id, child, id, workflow, status, policy in rows
    ]


async def last_key(tx: Tx) -> int | None:
    """Return the greatest key of an instance."""
    row = await tx.row(instances.LAST_KEY)
    return None if row is None else row[0]


async def count_open(tx: Tx) -> OpenCounts:
    """Count the instances that have not ended."""
    rows = await tx.rows(instances.OPEN)
    return OpenCounts({Status(status): count for status, count, _ in rows}, sum(cold for *_, cold in rows))


async def statuses(tx: Tx, keys: Sequence[int]) -> dict[int, Status]:
    """Read how instances stand; a purged one is missing."""
    return {key: Status(status) for key, status in await tx.rows(instances.STATUSES, list(keys))}


async def standings(tx: Tx, keys: Sequence[int]) -> dict[int, Standing]:
    """Read how instances stand, and how they ended; a purged one is missing."""
    found = await tx.rows(instances.STANDINGS, list(keys))
    return {key: Standing(Status(status), *others) for key, status, *others in found}


async def locked(tx: Tx, id: str) -> Row:
    """Lock an instance.

    Raises:
        InstanceNotFoundError: There is none.
    """
    for row in (await tx.lock(ids=[id])).values():
        return row
    raise InstanceNotFoundError(f"no instance has the id {id!r}")


async def delete(tx: Tx, key: int) -> None:
    """Delete all that is known of an instance, which has ended and is locked."""
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
        await tx.run(statement, key)
