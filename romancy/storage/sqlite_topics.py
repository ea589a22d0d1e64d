"""Publishing to topics, and handing out what was published, on SQLite."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from romancy.core.events import SendOutcome
from romancy.core.records import HandedOut, PostResult
from romancy.core.requests import ChannelMode, Publish
from romancy.storage.rows import ChannelRow, Row, SubscriptionRow, TopicRow
from romancy.storage.sql import instances, messages, topics
from romancy.storage.topics import HandOut, Topics

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from romancy.core.records import Publication


def publish(connection: sqlite3.Connection, publications: Sequence[Publication], now: int) -> list[PostResult]:
    """Add messages to topics, within a transaction; see `romancy.storage.protocol.Storage.publish`."""
    names = json.dumps(sorted({publication.channel for publication in publications}))
    channels = {row[0]: ChannelRow._make(row) for row in connection.execute(topics.CHANNELS, (names,))}
    batch = Topics(channels, ())
    results: list[PostResult] = []
    added: set[tuple[str, str]] = set()
    for publication in publications:
        known = (publication.channel, publication.message_id)
        if known in added or connection.execute(topics.IS_PUBLISHED, known).fetchone() is not None:
            results.append(PostResult.DUPLICATE)
            continue
        message = Publish(
            "", publication.channel, publication.body, publication.message_id, headers=publication.headers
        )
        if batch.publish(message, None, now) is SendOutcome.OTHER_MODE:
            return [PostResult.OTHER_MODE] * len(publications)
        results.append(PostResult.POSTED)
        added.add(known)
    connection.executemany(
        topics.INSERT_PUBLICATION, [(row.channel, row.message_id, now) for row in batch.publications]
    )
    connection.executemany(topics.WRITE_CHANNEL, batch.changed())
    connection.executemany(topics.PUBLISH, batch.publications)
    return results


def hand_out(connection: sqlite3.Connection, limit: int, now: int) -> HandedOut:
    """Put what was published into inboxes, within a transaction; see `romancy.storage.protocol.Storage.hand_out`."""
    out = HandOut(now)
    left = limit
    for row in connection.execute(topics.PENDING).fetchall():
        channel = ChannelRow._make(row)
        if left <= 0:
            break
        if channel.mode == ChannelMode.BROADCAST:
            left -= _copy_to_all(connection, channel, out, left)
        else:
            left -= _move_to_waiting(connection, channel, out, left)
    connection.executemany(instances.REACH, out.reaches())
    connection.executemany(messages.INSERT, out.messages)
    return HandedOut([reach.key for reach in out.reaches()], has_more=left <= 0)


def _copy_to_all(connection: sqlite3.Connection, channel: ChannelRow, out: HandOut, limit: int) -> int:
    """Copy a broadcast topic's messages, oldest first, to all who subscribed before; return how many copies."""
    copies = 0
    for found in connection.execute(topics.OLDEST, (channel.name, limit)).fetchall():
        topic = TopicRow._make(found)
        left = limit - copies
        asked = (channel.name, channel.handed_key, topic.seq, left)
        subscribers = [SubscriptionRow._make(row) for row in connection.execute(topics.SUBSCRIBERS, asked)]
        _read(connection, out, [subscriber.key for subscriber in subscribers])
        for subscriber in subscribers:
            out.put(topic, subscriber.key, subscriber.mailbox, is_moved=False)
        copies += len(subscribers) + 1
        if len({subscriber.key for subscriber in subscribers}) == left:
            handed = channel._replace(handed_key=subscribers[-1].key)
            connection.execute(topics.WRITE_CHANNEL, handed)
            return max(copies, limit)
        connection.execute(topics.REMOVE, (topic.channel, topic.seq))
        channel = channel._replace(handed_key=0)
        if copies >= limit:
            break
    is_empty = connection.execute(topics.OLDEST, (channel.name, 1)).fetchone() is None
    connection.execute(topics.WRITE_CHANNEL, channel._replace(is_pending=int(not is_empty)))
    return copies


def _move_to_waiting(connection: sqlite3.Connection, channel: ChannelRow, out: HandOut, limit: int) -> int:
    """Move a competing topic's messages, oldest first, to those that have waited longest; return how many."""
    waits = connection.execute(topics.LONGEST_WAITS, (channel.name, limit)).fetchall()
    available = [TopicRow._make(row) for row in connection.execute(topics.OLDEST, (channel.name, len(waits)))]
    pairs = list(zip(waits, available, strict=False))
    _read(connection, out, [key for (_, key, _), _ in pairs])
    moved = 0
    for (ticket, key, mailbox), topic in pairs:
        connection.execute(topics.SERVE, (ticket,))
        if out.put(topic, key, mailbox, is_moved=True):
            connection.execute(topics.REMOVE, (topic.channel, topic.seq))
            moved += 1
    if moved == len(pairs) < limit:
        connection.execute(topics.WRITE_CHANNEL, channel._replace(is_pending=0))
    return len(pairs)


def _read(connection: sqlite3.Connection, out: HandOut, keys: list[int]) -> None:
    missing = out.missing(keys)
    if missing:
        found = connection.execute(instances.ROWS_BY_KEYS, (json.dumps(missing),))
        out.know({row[0]: Row._make(row) for row in found})
