"""Statements on workers' sessions.

They are judged on the database's clock: on PostgreSQL an instant that is not given is that of its server.
"""

from __future__ import annotations

from romancy.storage.sql import Dialects, names

_COLUMNS = ("expires_at", "build", "definitions", "runtime", "host", "pid", "process", "started_at")
_NOW = "coalesce($1::timestamptz, clock_timestamp())"
_LATER = f"{_NOW} + $2::bigint * interval '1 microsecond'"

# The present and the time to live come first.
INSERT = Dialects(
    f"INSERT INTO sessions ({names(_COLUMNS)}) VALUES (?1 + ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?1) RETURNING id",
    f"INSERT INTO sessions ({names(_COLUMNS)}) VALUES ({_LATER}, $3, $4, $5, $6, $7, $8, {_NOW}) RETURNING id",
)

_ELDER = "SELECT s.id FROM sessions s WHERE s.expires_at > {} ORDER BY s.id LIMIT 1"
_WITH_ELDER = "RETURNING ({0}), (SELECT e.process FROM sessions e WHERE e.id = ({0}))"

# With the oldest session of all that are live, and what a server's clock says.
RENEW = Dialects(
    "UPDATE sessions SET expires_at = ?1 + ?2 WHERE id = ?3 AND expires_at > ?1"
    f" {_WITH_ELDER.format(_ELDER.format('?1'))}",
    f"UPDATE sessions SET expires_at = {_LATER} WHERE id = $3 AND expires_at > {_NOW}"
    f" {_WITH_ELDER.format(_ELDER.format(_NOW))}, clock_timestamp()",
)

IS_LIVE = Dialects(
    "SELECT runtime, build FROM sessions WHERE expires_at > ? AND id = ?",
    f"SELECT runtime, build FROM sessions WHERE expires_at > {_NOW} AND id = $2",
)

# KEY SHARE: whoever declares the session dead has to wait or to pass over, and its renewal need not.
FENCE = Dialects(IS_LIVE.sqlite, f"{IS_LIVE.postgres} FOR KEY SHARE")

ALL = Dialects(
    "SELECT id, process, expires_at <= ? FROM sessions ORDER BY id",
    f"SELECT id, process, expires_at <= {_NOW} FROM sessions ORDER BY id",
)

# Those whose transactions are under way are left for later, and so are those that were renewed since they were found.
DYING = Dialects(
    "SELECT id FROM sessions WHERE id IN (SELECT value FROM json_each(?2))"
    " AND (expires_at <= ?1 OR id IN (SELECT value FROM json_each(?3))) ORDER BY id",
    f"SELECT id FROM sessions WHERE id = ANY($2::bigint[]) AND (expires_at <= {_NOW} OR id = ANY($3::bigint[]))"
    " ORDER BY id FOR UPDATE SKIP LOCKED",
)

LIVE_DEFINITIONS = Dialects(
    "SELECT definitions FROM sessions WHERE expires_at > ?",
    f"SELECT definitions FROM sessions WHERE expires_at > {_NOW}",
)

DELETE = "DELETE FROM sessions WHERE id = ?"
