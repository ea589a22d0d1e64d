"""Statements on inboxes and on the ids of what was delivered to them."""

from __future__ import annotations

from romancy.core.records import InboxItem
from romancy.storage.rows import MessageRow
from romancy.storage.sql import delete, insert, names

_ITEM = names(InboxItem.__struct_fields__, "m")

INSERT = insert("messages", MessageRow._fields)

DELETE_ONE = delete("messages", ("key", "seq"))

DELETE = "DELETE FROM messages WHERE key = ?"

OF_INSTANCES = (
    f"SELECT m.key, {_ITEM} FROM json_each(?) k CROSS JOIN messages m ON m.key = k.value ORDER BY m.key, m.seq"
)

# Also those without rows: something else about them has changed.
UNSEEN = (
    f"SELECT i.key, i.execution_id, i.inbox_seq, i.status, {_ITEM} FROM instances i LEFT JOIN messages m"
    " ON m.key = i.key AND m.seq > i.inbox_seen"
    " WHERE i.session = ? AND i.session IS NOT NULL AND i.inbox_seq > i.inbox_seen ORDER BY i.key, m.seq"
)

INSERT_DELIVERY = insert("deliveries", ("key", "message_id", "at"))

IS_DELIVERED = "SELECT 1 FROM deliveries WHERE key = ? AND message_id = ?"

FORGET_DELIVERIES = "DELETE FROM deliveries WHERE key = ? AND message_id >= ? AND message_id < ?"

DELETE_DELIVERIES = "DELETE FROM deliveries WHERE key = ?"

DELETE_OLD_DELIVERIES = (
    "DELETE FROM deliveries WHERE (key, message_id) IN"
    " (SELECT key, message_id FROM deliveries WHERE at <= ? ORDER BY at LIMIT ? /*pg FOR UPDATE SKIP LOCKED */)"
)
