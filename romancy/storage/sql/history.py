"""Statements on histories."""

from __future__ import annotations

from romancy.core.events import Event
from romancy.storage.rows import HistoryRow
from romancy.storage.sql import insert, names

_EVENT = names(Event._fields)

INSERT = insert("history", HistoryRow._fields)

OF_RUN = f"SELECT {_EVENT} FROM history WHERE key = ? AND run = ? AND seq > ? ORDER BY seq"

OF_CURRENT_RUN = (
    f"SELECT {_EVENT} FROM history WHERE key = ? AND run = (SELECT run FROM instances WHERE key = ?) AND seq > ?"
    " ORDER BY seq"
)

SLICE = f"SELECT {_EVENT} FROM history WHERE key = ? AND run = ? AND seq >= ? AND seq < ? ORDER BY seq"

# CROSS JOIN keeps SQLite from starting with the larger table.
OF_CURRENT_RUNS = (
    f"SELECT h.key, {names(Event._fields, 'h')} FROM json_each(?) k CROSS JOIN instances i ON i.key = k.value"
    " CROSS JOIN history h ON h.key = i.key AND h.run = i.run ORDER BY h.key, h.seq"
)

LAST_PAYLOAD = (
    "SELECT payload FROM history WHERE key = ? AND run = (SELECT run FROM instances WHERE key = ?)"
    " ORDER BY seq DESC LIMIT 1"
)

LAST_TURN = "SELECT turn FROM history WHERE key = ? AND run = ? ORDER BY seq DESC LIMIT 1"

# The first event of a copy says what it is a copy of.
COPY = (
    "INSERT INTO history (key, run, seq, turn, stamp, kind, activity_id, payload)"
    " SELECT CAST(? AS bigint), run, seq + ?, turn, stamp, kind, activity_id, payload FROM history"
    " WHERE key = ? AND run = ? AND seq < ?"
)

CUT = "DELETE FROM history WHERE key = ? AND run = ? AND seq >= ?"

DELETE = "DELETE FROM history WHERE key = ?"

# Of all runs.
DELETE_ANY = (
    "DELETE FROM history WHERE (key, run, seq) IN"
    " (SELECT key, run, seq FROM history WHERE key = ? ORDER BY run, seq LIMIT ?)"
)

# The oldest events first, so many at a time: a run may have any number of them.
DELETE_SOME = (
    "DELETE FROM history WHERE key = ? AND run = ?"
    " AND seq < (SELECT min(seq) FROM history WHERE key = ? AND run = ?) + ?"
)
