"""Publishing to topics, and handing out what was published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.events import SendOutcome
from romancy.core.records import HandedOut, PostResult
from romancy.core.requests import ChannelMode, Publish
from romancy.storage.rows import ChannelRow, SubscriptionRow, TopicRow
from romancy.storage.sql import instances, messages, topics
from romancy.storage.topics import HandOut, Topics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.records import Publication
    from romancy.storage.tx import Rows, Tx


async def publish(tx: Tx, publications: Sequence[Publication]) -> list[PostResult]:
    """Add messages to topics; see `romancy.storage.protocol.Storage.publish`."""
    batch = Topics(await tx.channels({publication.channel for publication in publications}), ())
    results: list[PostResult] = []
    added: set[tuple[str, str]] = set()
    for publication in publications:
        known = (publication.channel, publication.message_id)
        if known in added or await tx.row(topics.IS_PUBLISHED, *known) is not None:
            results.append(PostResult.DUPLICATE)
            continue
        message = Publish(
            "", publication.channel, publication.body, publication.message_id, headers=publication.headers
        )
        if batch.publish(message, None, tx.now) is SendOutcome.OTHER_MODE:
            return [PostResult.OTHER_MODE] * len(publications)
        results.append(PostResult.POSTED)
        added.add(known)
    await tx.write(
        (topics.INSERT_PUBLICATION, [(row.channel, row.message_id, tx.now) for row in batch.publications]),
        (topics.WRITE_CHANNEL, batch.changed()),
        (topics.PUBLISH, batch.publications),
    )
    return results


async def hand_out(tx: Tx, limit: int) -> HandedOut:
    """Put what was published into inboxes; see `romancy.storage.protocol.Storage.hand_out`."""
    out = HandOut(tx.now)
    left = limit
    pending = await tx.channels([name for (name,) in await tx.rows(topics.PENDING)])
    for _, channel in sorted(pending.items()):
        if left <= 0:
            break
        if channel.mode == ChannelMode.BROADCAST:
            left -= await _copy_to_all(tx, channel, out, left)
        else:
            left -= await _move_to_waiting(tx, channel, out, left)
    await tx.write((instances.REACH, out.reaches()), (messages.INSERT, out.messages))
    return HandedOut([reach.key for reach in out.reaches()], has_more=left <= 0)


async def _copy_to_all(tx: Tx, channel: ChannelRow, out: HandOut, limit: int) -> int:
    """Copy a broadcast topic's messages, oldest first, to all who subscribed before; return how many copies."""
    copies = 0
    for topic in map(TopicRow._make, await tx.rows(topics.OLDEST, channel.name, limit)):
        left = limit - copies
        asked = (channel.name, channel.handed_key, topic.seq, left)
        found = await _of_locked(tx, out, topics.SUBSCRIBERS, *asked)
        subscribers = [SubscriptionRow._make(row) for row in found]
        for subscriber in subscribers:
            out.put(topic, subscriber.key, subscriber.mailbox, is_moved=False)
        copies += len(subscribers) + 1
        if len({subscriber.key for subscriber in subscribers}) == left:
            handed = channel._replace(handed_key=subscribers[-1].key)
            await tx.write((topics.WRITE_CHANNEL, [handed]))
            return max(copies, limit)
        await tx.run(topics.REMOVE, topic.channel, topic.seq)
        channel = channel._replace(handed_key=0)
        if copies >= limit:
            break
    is_empty = await tx.row(topics.OLDEST, channel.name, 1) is None
    await tx.write((topics.WRITE_CHANNEL, [channel._replace(is_pending=int(not is_empty))]))
    return copies


async def _move_to_waiting(tx: Tx, channel: ChannelRow, out: HandOut, limit: int) -> int:
    """Move a competing topic's messages, oldest first, to those that have waited longest; return how many."""
    waits = await _of_locked(tx, out, topics.LONGEST_WAITS, channel.name, limit)
    available = [TopicRow._make(row) for row in await tx.rows(topics.OLDEST, channel.name, len(waits))]
    pairs = list(zip(waits, available, strict=False))
    moved = 0
    for (ticket, key, mailbox), topic in pairs:
        if await tx.run(topics.SERVE, ticket) and out.put(topic, key, mailbox, is_moved=True):
            await tx.run(topics.REMOVE, topic.channel, topic.seq)
            moved += 1
    if moved == len(pairs) < limit:
        await tx.write((topics.WRITE_CHANNEL, [channel._replace(is_pending=0)]))
    return len(pairs)


async def _of_locked(tx: Tx, out: HandOut, statement: str, *parameters: object) -> Rows:
    """Read rows whose second column is an instance's key, and that stay because their instances are locked."""
    while True:
        found = await tx.rows(statement, *parameters)
        missing = out.missing(key for _, key, *_ in found)
        if not missing:
            return found
        rows = await tx.lock(missing)
        out.know({key: rows.get(key) for key in missing})
