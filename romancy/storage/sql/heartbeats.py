"""Statements on the heartbeats of activities."""

from __future__ import annotations

from romancy.core.records import Status

# Of an instance that is not the session's, or has gone on to another run, nothing is kept.
PUT = (
    "INSERT INTO heartbeats (key, run, activity_id, attempt, details)"
    " SELECT key, run, ?, ?, ? FROM instances"
    f" WHERE key = ? AND session = ? AND execution_id = ? AND run = ? AND status < {Status.COMPLETED:d}"
    " ON CONFLICT (key, run, activity_id) DO UPDATE SET attempt = excluded.attempt, details = excluded.details"
)

# CROSS JOIN keeps SQLite from starting with the larger table.
OF_CURRENT_RUNS = (
    "SELECT h.key, i.execution_id, h.run, h.activity_id, h.attempt, h.details FROM json_each(?) k"
    " CROSS JOIN instances i ON i.key = k.value CROSS JOIN heartbeats h ON h.key = i.key AND h.run = i.run"
)

DELETE_ONE = "DELETE FROM heartbeats WHERE key = ? AND run = ? AND activity_id = ?"

DELETE = "DELETE FROM heartbeats WHERE key = ?"
