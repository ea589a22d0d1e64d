"""Histories that go on in another way: what has failed tries again, what was done is done again from some place on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.records import Creation, Status
from romancy.core.requests import ChannelMode, ParentClosePolicy
from romancy.errors import InstanceAlreadyExistsError, InstanceNotFoundError, InstanceRunningError
from romancy.storage.claims import instance_of
from romancy.storage.effects import Effects
from romancy.storage.instances import get, insert, locked, statuses
from romancy.storage.rows import ChildRow, HistoryRow, MessageRow, SubscriptionRow
from romancy.storage.sql import children, history, instances, messages, topics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.records import Branch, NewInstance
    from romancy.storage.rows import Row
    from romancy.storage.tx import Tx

_GONE = "the instance was purged or started anew meanwhile"


async def unblock(tx: Tx, id: str) -> None:
    """Let a blocked instance be tried again; see `romancy.storage.protocol.Storage.unblock`.

    Raises:
        InstanceNotFoundError: No instance has the id.
        InstanceRunningError: It is not blocked.
    """
    target = await locked(tx, id)
    if not await tx.run(instances.UNBLOCK, tx.now, target.key) and not tx.may_be_done:
        raise InstanceRunningError(f"instance {id!r} is not blocked: it is {Status(target.status).name.lower()}")


async def rewind(tx: Tx, branches: Sequence[Branch]) -> None:
    """Let failed instances go on in another way; see `romancy.storage.protocol.Storage.rewind`.

    Raises:
        InstanceNotFoundError: There is no such instance any more.
        InstanceRunningError: One of them does not stand as it did, or a parent that goes on knows of its end.
    """
    rows = await tx.lock([branch.key for branch in branches])
    if all([await _is_done(tx, branch) for branch in branches]):
        return  # it was this that has done it
    for branch in branches:
        _check(branch, rows.get(branch.key))
    for branch in branches:
        await _rewind(tx, branch)
    for branch in branches:
        await _tell_ends(tx, branch.key, branch.run, branch.open_children)
        await _refuse_known(tx, rows[branch.key])


async def _is_done(tx: Tx, branch: Branch) -> bool:
    """Tell whether an earlier try has written a branch: its first event has a mark that no other has."""
    first = branch.events[0]
    return list(await tx.rows(history.SLICE, branch.key, branch.run, first.seq, first.seq + 1)) == [tuple(first)]


def _check(branch: Branch, row: Row | None) -> None:
    if row is None or row.execution_id != branch.execution_id:
        raise InstanceNotFoundError(_GONE)
    if row.status != Status.FAILED or (row.run, row.next_seq) != (branch.run, branch.next_seq):
        status = Status(row.status).name.lower()
        raise InstanceRunningError(f"instance {row.id!r} does not stand as it did a moment ago: it is {status}")


async def _rewind(tx: Tx, branch: Branch) -> None:
    key = branch.key
    await tx.run(history.CUT, key, branch.run, branch.cut)
    await tx.write((history.INSERT, [HistoryRow(key, branch.run, *event) for event in branch.events]))
    drained, next_seq = branch.cut, branch.cut + len(branch.events)
    await tx.run(instances.REOPEN, tx.now, next_seq, drained, branch.deadline, key)
    # Attempts are numbered anew, and answers to them by those numbers; what its parents and itself have asked of
    # others in view of its end, they may have to ask again.
    await _forget(tx, key, f"answer/{branch.run}/")
    await _forget(tx, key, "parent/")
    for activity_id in branch.lost_children:
        await tx.run(children.UNLINK, key, branch.run, activity_id)
    await _subscribe(tx, key, branch)
    await _put_back(tx, branch)


async def _forget(tx: Tx, key: int, prefix: str) -> None:
    await tx.run(messages.FORGET_DELIVERIES, key, prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))


async def _put_back(tx: Tx, branch: Branch) -> None:
    """Make messages unread that were received after the cut: those of direct channels, which have only this reader."""
    if not branch.letters:
        return
    channels = await tx.channels({letter.channel for letter in branch.letters if letter.channel is not None})
    effects = Effects(tx)
    for letter in branch.letters:
        channel = channels.get(letter.channel or "")
        if channel is not None and channel.mode == ChannelMode.DIRECT:
            row = (await tx.lock([branch.key]))[branch.key]
            item = (letter.channel, letter.message_id, letter.sender, letter.body, letter.at, letter.headers)
            await effects.put(row, MessageRow(branch.key, 0, letter.kind, *item))


async def _refuse_known(tx: Tx, row: Row) -> None:
    """Raise if a parent that has not ended knows of an end that is none any more."""
    told = await tx.rows(children.TOLD_PARENTS, row.key)
    for (parent,) in told:
        raise InstanceRunningError(
            f"instance {row.id!r} can't be retried: its parent {parent!r} goes on and knows that it has failed; "
            "retry the parent when it has failed too, or rerun this one"
        )


async def branch(tx: Tx, new: NewInstance, source: Branch) -> Creation:
    """Create an instance that begins as another; see `romancy.storage.protocol.Storage.branch`.

    Raises:
        InstanceAlreadyExistsError: The id is taken.
        InstanceNotFoundError: There is no such source any more.
        InstanceRunningError: The source has begun another run since.
    """
    existing = await get(tx, new.id)
    if existing is not None and existing.execution_id == new.execution_id:
        return Creation(existing, is_new=True)
    locked_source = (await tx.lock([source.key])).get(source.key)
    if locked_source is None or locked_source.execution_id != source.execution_id:
        raise InstanceNotFoundError(_GONE)
    if locked_source.run != source.run:
        raise InstanceRunningError(f"instance {locked_source.id!r} has begun run {locked_source.run} meanwhile")
    kept = await tx.rows(history.SLICE, source.key, source.run, source.cut - 1, source.cut)
    if [tuple(row) for row in kept] != ([] if source.kept is None else [tuple(source.kept)]):
        raise InstanceRunningError(f"instance {locked_source.id!r} was retried meanwhile: read its history again")
    for created in await insert(tx, [new]):
        await _copy(tx, created.key, source)
        found = await tx.row(instances.BY_KEY, created.key)
        return Creation(created if found is None else instance_of(found), is_new=True)
    raise InstanceAlreadyExistsError(f"instance {new.id!r} exists already; choose another id")


async def _copy(tx: Tx, key: int, source: Branch) -> None:
    """Give a new instance the beginning of another's history, and what belongs to it."""
    run, (first, *others) = source.run, source.events
    await tx.run(history.COPY, key, 1, source.key, run, source.cut)
    await tx.write((history.INSERT, [HistoryRow(key, run, *event) for event in (first, *others)]))
    for row in await tx.rows(instances.BY_KEY, source.key):
        of = instance_of(row)
        drained = source.cut + 1
        begun = (of.started_at, of.runtime, of.begun_by)
        is_tied = bool(source.subscriptions or source.open_children)
        await tx.run(instances.CONTINUE, run, drained + len(others), drained, *begun, int(is_tied), key)
    links = {link.activity_id: link.child for link in await _links(tx, source.key, run)}
    attached = [
        ChildRow(key, run, activity_id, links[activity_id], ParentClosePolicy.ABANDON)
        for activity_id in source.open_children
        if activity_id in links
    ]
    await tx.write((children.LINK, attached))
    await _subscribe(tx, key, source)
    await _tell_ends(tx, key, run, [])


async def _links(tx: Tx, key: int, run: int) -> list[ChildRow]:
    found = [ChildRow._make(row) for row in await tx.rows(children.OF_PARENT, key)]
    return [link for link in found if link.run == run]


async def _subscribe(tx: Tx, key: int, branch: Branch) -> None:
    """Open the subscriptions of a branch again; what is published from now on reaches them."""
    wanted = dict.fromkeys(channel for channel, _ in branch.subscriptions)
    channels = await tx.channels(wanted) if wanted else {}
    rows: list[SubscriptionRow] = []
    for name, mailbox in branch.subscriptions:
        channel = channels.get(name)
        if channel is not None and channel.mode != ChannelMode.DIRECT:
            since = channel.last_seq if channel.mode == ChannelMode.BROADCAST else 0
            rows.append(SubscriptionRow(name, key, mailbox, branch.run, since))
    await tx.write((topics.SUBSCRIBE, rows))


async def _tell_ends(tx: Tx, key: int, run: int, untold: Sequence[str]) -> None:
    """Tell an instance the ends of children that it does not know of, or must not have known."""
    for activity_id in untold:
        await tx.run(children.UNTELL, key, run, activity_id)
    unknown = [link.child for link in await _links(tx, key, run) if not link.is_told]
    effects = Effects(tx)
    for child, status in (await statuses(tx, unknown)).items() if unknown else ():
        if status.is_closed:
            await effects.tell_parents(child)
