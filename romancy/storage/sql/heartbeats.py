"""Statements on the heartbeats of activities."""

from __future__ import annotations

from romancy.core.records import Status
from romancy.storage.sql import Batch, array, delete, rows, types

_BEAT = ("activity_id", "attempt", "details", "key", "session", "execution_id", "run")
_INTO = "INSERT INTO heartbeats (key, run, activity_id, attempt, details)"
_KEEPS_LATEST = (
    "ON CONFLICT (key, run, activity_id) DO UPDATE SET attempt = excluded.attempt, details = excluded.details"
)

# Of an instance that is not the session's, or has gone on to another run, nothing is kept.
PUT = Batch(
    f"{_INTO} SELECT key, run, ?, ?, ? FROM instances"
    f" WHERE key = ? AND session = ? AND execution_id = ? AND run = ? AND status < {Status.COMPLETED:d}"
    f" {_KEEPS_LATEST}",
    f"{_INTO} SELECT i.key, i.run, u.activity_id, u.attempt, u.details FROM instances i, {rows('heartbeats', _BEAT)}"
    " WHERE i.key = u.key AND i.session = u.session AND i.execution_id = u.execution_id AND i.run = u.run"
    f" AND i.status < {Status.COMPLETED:d} AND i.key = ANY({array('heartbeats', 'key', 4)}) {_KEEPS_LATEST}",
    types("heartbeats", _BEAT),
)

# CROSS JOIN keeps SQLite from starting with the larger table.
OF_CURRENT_RUNS = (
    "SELECT h.key, i.execution_id, h.run, h.activity_id, h.attempt, h.details FROM json_each(?) k"
    " CROSS JOIN instances i ON i.key = k.value CROSS JOIN heartbeats h ON h.key = i.key AND h.run = i.run"
)

DELETE_ONE = delete("heartbeats", ("key", "run", "activity_id"))

DELETE = "DELETE FROM heartbeats WHERE key = ?"
