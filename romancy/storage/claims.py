"""Instances change owners: claims, and what they find."""

from __future__ import annotations

import heapq
import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from romancy.core.events import Event
from romancy.core.records import Claim, Heartbeat, InboxItem, InboxKind, Instance, Mail, Status
from romancy.storage.sessions import fence, lost
from romancy.storage.sql import heartbeats, history, instances, messages

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from romancy.storage.tx import Tx

_STATUS = Instance.__struct_fields__.index("status")


def instance_of(row: Sequence[Any]) -> Instance:
    """Make a value of an instance's columns."""
    values = list(row)
    values[_STATUS] = Status(values[_STATUS])
    return Instance(*values)


def item_of(row: Sequence[Any]) -> InboxItem:
    """Make a value of an inbox row's columns."""
    seq, kind, *others = row
    return InboxItem(seq, InboxKind(kind), *others)


async def due(
    tx: Tx, session: int, definitions: Sequence[tuple[str, str]], build: str, *, limit: int
) -> tuple[list[int], int | None]:
    """Find what a live session can claim, without claiming it.

    Returns:
        The keys, best first, and when the next instance is due.

    Raises:
        SessionLostError: The session is dead.
    """
    looked = await tx.row(instances.LOOK, tx.present, session)
    is_live, has_blocked = looked or (False, False)
    if not is_live:
        raise lost(session)
    served = json.dumps(sorted(set(definitions)))
    lanes = await tx.rows(instances.LANES, served, tx.now)
    found = [
        await tx.rows(instances.DUE_IN_LANE, workflow, version, priority, tx.now, limit + 1)
        for workflow, version, priority, earliest, _ in lanes
        if earliest <= tx.now
    ]
    if has_blocked:
        for workflow, version, blocked_by in await tx.rows(instances.BLOCKED_LANES, served, build):
            lane = (workflow, version) if blocked_by is None else (workflow, version, blocked_by)
            statement = instances.BLOCKED_BY_NONE if blocked_by is None else instances.BLOCKED_BY_BUILD
            found.append(await tx.rows(statement, *lane, tx.now, limit + 1))
    keys = [key for _, _, key in heapq.merge(*found)]
    if len(keys) > limit:
        return keys[:limit], tx.now
    later = [wake_at for *_, wake_at in lanes if wake_at is not None]
    return keys, min(later, default=None)


async def take(tx: Tx, session: int, keys: Sequence[int], build: str) -> list[Claim]:
    """Claim those of some instances that nobody else has taken since; see `romancy.storage.protocol.Storage.claim`.

    Returns:
        The claims, in the order of the keys.

    Raises:
        SessionLostError: The session is dead.
    """
    await fence(tx, session)
    found = await tx.rows(instances.CLAIMABLE, list(keys), tx.now, build) if keys else ()
    claimable = [key for key, _ in found]
    fresh = {key for key, is_first in found if is_first}
    if tx.may_be_done:  # nobody had them before, so this has taken them
        claimable += [key for (key,) in await tx.rows(instances.TAKEN, session, list(keys))]
    if not claimable:
        return []
    await tx.run(instances.TAKE, session, tx.now, session, build, claimable)
    taken = set(claimable)
    return await _read(tx, [key for key in keys if key in taken], fresh)


async def mail(tx: Tx, session: int) -> list[Mail]:
    """Read what the owned instances' inboxes hold beyond ``inbox_seen``, by one statement."""
    rows = await tx.rows(messages.UNSEEN, session)
    return [
        Mail(key, execution_id, inbox_seq, [item_of(row[4:]) for row in group if row[4] is not None], Status(status))
        for (key, execution_id, inbox_seq, status), group in groupby(rows, key=lambda row: tuple(row[:4]))
    ]


async def _read(tx: Tx, keys: list[int], fresh: Collection[int]) -> list[Claim]:
    """Read instances with their histories, inboxes and heartbeats, in the order of the keys; ``fresh`` are new."""
    by_key = {row[0]: instance_of(row) for row in await tx.rows(instances.BY_KEYS, keys)}
    begun = [key for key, it in by_key.items() if it.next_seq]
    events: dict[int, list[Event]] = {}
    for key, *event in await tx.rows(history.OF_CURRENT_RUNS, begun) if begun else ():
        events.setdefault(key, []).append(Event._make(event))
    addressed = [key for key, it in by_key.items() if it.inbox_seq]
    items: dict[int, list[InboxItem]] = {}
    for key, *item in await tx.rows(messages.OF_INSTANCES, addressed) if addressed else ():
        items.setdefault(key, []).append(item_of(item))
    beats: dict[int, list[Heartbeat]] = {}
    for row in await tx.rows(heartbeats.OF_CURRENT_RUNS, keys):
        beats.setdefault(row[0], []).append(Heartbeat(*row))
    return [
        Claim(by_key[key], events.get(key, []), items.get(key, []), beats.get(key, ()), key in fresh) for key in keys
    ]
