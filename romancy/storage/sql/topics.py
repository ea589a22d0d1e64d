"""Statements on channels: their topics, subscriptions and waits."""

from __future__ import annotations

from romancy.core.requests import ChannelMode
from romancy.storage.rows import ChannelRow, SubscriptionRow, TopicRow
from romancy.storage.sql import insert, names, update

_CHANNEL = names(ChannelRow._fields)
_TOPIC = names(TopicRow._fields)
_SUBSCRIPTION = names(SubscriptionRow._fields)

CHANNELS = f"SELECT {_CHANNEL} FROM channels WHERE name IN (SELECT value FROM json_each(?))"

LOCK_CHANNELS = (
    f"{CHANNELS} AND mode <> {ChannelMode.DIRECT:d} ORDER BY name /*pg FOR NO KEY UPDATE */"  # direct ones stay so
)

WRITE_CHANNEL = insert(
    "channels",
    ChannelRow._fields,
    "ON CONFLICT (name) DO UPDATE SET mode = excluded.mode, last_seq = excluded.last_seq,"
    " handed_key = excluded.handed_key, is_pending = excluded.is_pending",
)

ADD_CHANNEL = insert("channels", ChannelRow._fields, "ON CONFLICT (name) DO NOTHING")

HAS_PENDING = "SELECT 1 FROM channels WHERE is_pending = 1 LIMIT 1"

PENDING = "SELECT name FROM channels WHERE is_pending = 1 ORDER BY name"

SET_PENDING = f"UPDATE channels SET is_pending = 1 WHERE name = ? AND mode <> {ChannelMode.TOPIC:d}"

PUBLISH = insert("topics", TopicRow._fields)

OLDEST = f"SELECT {_TOPIC} FROM topics WHERE channel = ? ORDER BY seq LIMIT ?"

REMOVE = "DELETE FROM topics WHERE channel = ? AND seq = ?"

IS_PUBLISHED = "SELECT 1 FROM publications WHERE channel = ? AND message_id = ?"

INSERT_PUBLICATION = insert("publications", ("channel", "message_id", "at"))

SUBSCRIBE = insert("subscriptions", SubscriptionRow._fields)

TAKE_OVER = update("subscriptions", ("run",), ("channel", "key", "mailbox"))

SUBSCRIPTIONS_OF = (
    f"SELECT {_SUBSCRIPTION} FROM subscriptions WHERE key IN (SELECT value FROM json_each(?)) ORDER BY key, mailbox"
)

# Whole instances: their keys say how far a message has come.
SUBSCRIBERS = (
    f"SELECT {_SUBSCRIPTION} FROM subscriptions WHERE channel = ?1 AND since < ?3 AND key IN"
    " (SELECT DISTINCT key FROM subscriptions WHERE channel = ?1 AND key > ?2 AND since < ?3 ORDER BY key LIMIT ?4)"
    " ORDER BY key, mailbox"
)

UNSUBSCRIBE = "DELETE FROM subscriptions WHERE channel = ? AND key = ? AND mailbox = ?"

# What a competing subscription has been handed and not read: back to its place, as it was published.
RETURN = (
    f"INSERT INTO topics ({_TOPIC}) SELECT ?, topic_seq, message_id, sender, headers, body, coalesce(sent_at, at)"
    " FROM messages WHERE key = ? AND channel = ? AND topic_seq IS NOT NULL"
)

DROP_MAILBOX = "DELETE FROM messages WHERE key = ? AND channel = ?"

# The number of a wait that is repeated stays: it may have been served already.
WAIT = (
    "INSERT INTO waits (channel, key, activity_id, mailbox, is_served) VALUES (?, ?, ?, ?, 0)"
    " ON CONFLICT (key, activity_id) DO NOTHING"
)

END_WAIT = "DELETE FROM waits WHERE key = ? AND activity_id = ?"

END_WAITS = "DELETE FROM waits WHERE key = ?"

END_WAITS_OF_MAILBOX = "DELETE FROM waits WHERE key = ? AND mailbox = ?"

LONGEST_WAITS = "SELECT ticket, key, mailbox FROM waits WHERE channel = ? AND is_served = 0 ORDER BY ticket LIMIT ?"

SERVE = "UPDATE waits SET is_served = 1 WHERE ticket = ?"

DELETE_OLD_PUBLICATIONS = (
    "DELETE FROM publications WHERE (channel, message_id) IN"
    " (SELECT channel, message_id FROM publications WHERE at <= ? ORDER BY at LIMIT ? /*pg FOR UPDATE SKIP LOCKED */)"
)

# What was published to a channel that nobody has subscribed to yet.
DELETE_UNCLAIMED = (
    "DELETE FROM topics WHERE (channel, seq) IN"
    " (SELECT t.channel, t.seq FROM channels c JOIN topics t ON t.channel = c.name"
    f" WHERE c.mode = {ChannelMode.TOPIC:d} AND t.at <= ? LIMIT ? /*pg FOR UPDATE OF t SKIP LOCKED */)"
)
