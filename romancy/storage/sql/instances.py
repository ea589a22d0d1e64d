"""Statements on instances."""

from __future__ import annotations

from typing import Any

from romancy.core.records import Instance, Status
from romancy.storage.rows import Advance, Opening, Reach, Row, Settlement
from romancy.storage.sql import Batch, Dialects, insert, names, rows, types, update
from romancy.storage.sql.sessions import IS_LIVE

_COLUMNS = names(Instance.__struct_fields__)

# These terms stand in the partial indexes too: SQLite uses an index only where it finds its terms literally.
_IS_IDLE = "session IS NULL AND wake_at IS NOT NULL"
_IS_READY = f"{_IS_IDLE} AND status < {Status.PAUSED:d}"
_IS_BLOCKED = f"{_IS_IDLE} AND status = {Status.BLOCKED:d}"
_HAS_MAIL = "inbox_seq > inbox_seen AND session IS NOT NULL"

# What is freed while its inbox holds something unseen is claimable now.
_WAKE_WHEN_FREED = "CASE WHEN inbox_seq > inbox_seen AND (wake_at IS NULL OR wake_at > ?) THEN ? ELSE wake_at END"

NEW = (
    "id",
    "execution_id",
    "workflow",
    "version",
    "input",
    "wake_at",
    "trace_context",
    "created_at",
    "status",
    "run",
    "next_seq",
    "drained_seq",
    "inbox_seq",
    "inbox_seen",
    "recoveries",
    "session",
    "started_at",
    "runtime",
    "parent",
    "ties",
    "deadline",
    "priority",
    "tags",
    "begun_by",
)
INSERT = insert("instances", NEW, "ON CONFLICT (id) DO NOTHING RETURNING key, execution_id")

BY_ID = f"SELECT {_COLUMNS} FROM instances WHERE id = ?"

BY_KEY = f"SELECT {_COLUMNS} FROM instances WHERE key = ?"

BY_KEYS = f"SELECT {_COLUMNS} FROM instances WHERE key IN (SELECT value FROM json_each(?))"

LAST_KEY = "SELECT max(key) FROM instances"

OPEN = (
    "SELECT status, count(*), count(CASE WHEN session IS NULL THEN 1 END)"
    " FROM instances WHERE closed_at IS NULL GROUP BY status"
)

STATUSES = "SELECT key, status FROM instances WHERE key IN (SELECT value FROM json_each(?))"

# A closed instance's last event tells how it ended.
STANDINGS = (
    "SELECT key, status, workflow, version, CASE WHEN closed_at IS NOT NULL THEN (SELECT h.payload FROM history h"
    " WHERE h.key = instances.key AND h.run = instances.run AND h.seq = instances.next_seq - 1) END"
    " FROM instances WHERE key IN (SELECT value FROM json_each(?))"
)

DELETE = "DELETE FROM instances WHERE key = ?"

EXPIRED = "SELECT key FROM instances WHERE closed_at <= ? ORDER BY closed_at LIMIT ? /*pg FOR UPDATE SKIP LOCKED */"


def listing(
    *, has_workflow: bool, has_statuses: bool, has_prefix: bool, has_custom_status: bool = False, tags: int = 0
) -> str:
    """Render the query of a page of instances.

    Its parameters are each tag's name and value; the key to begin after; the workflow; the statuses as a JSON array;
    the prefix's first id and the first id beyond it; the custom status; the page's size. Those that are not asked for
    are left out.
    """
    source = "instances"
    terms: list[str] = []
    if tags:
        # The first tag leads, in the order of keys: a page costs what it holds, not what there is.
        source = "tags t CROSS JOIN instances ON instances.key = t.key"
        terms.append("t.name = ? AND t.value = ?")
        also = "EXISTS (SELECT 1 FROM tags o WHERE o.key = instances.key AND o.name = ? AND o.value = ?)"
        terms += [also] * (tags - 1)
    key = "t.key" if tags else "key"
    terms.append(f"{key} > ?")
    if has_workflow:
        terms.append("workflow = ?")
    if has_statuses:
        terms.append("status IN (SELECT value FROM json_each(?))")
    if has_prefix:
        terms.append("id >= ? AND id < ?")
    if has_custom_status:
        terms.append("custom_status = ?")
    columns = names(Instance.__struct_fields__, "instances")
    return f"SELECT {columns} FROM {source} WHERE {' AND '.join(terms)} ORDER BY {key} LIMIT ?"


def counting(**wanted: Any) -> str:
    """Render the query that counts what `listing` would list, with the same parameters but for the page's size."""
    query = listing(**wanted)
    source = query[query.index(" FROM ") : query.index(" ORDER BY ")]
    return f"SELECT count(*){source}"


_ROWS = f"SELECT {names(Row._fields)} FROM instances WHERE"
# In the order of keys: whoever locks more than one row locks them so.
_LOCKED = "ORDER BY key /*pg FOR NO KEY UPDATE */"

ROWS_BY_KEYS = f"{_ROWS} key IN (SELECT value FROM json_each(?)) {_LOCKED}"

ROWS_BY_IDS = f"{_ROWS} id IN (SELECT value FROM json_each(?)) {_LOCKED}"

ROWS_BY_KEYS_AND_IDS = (
    f"{_ROWS} key IN (SELECT value FROM json_each(?)) OR id IN (SELECT value FROM json_each(?)) {_LOCKED}"
)

OWNED = "SELECT key FROM instances WHERE session = ?"

PLACE = "SELECT run, next_seq FROM instances WHERE key = ?"

ADVANCE = update("instances", Advance._fields[:-1], ("key",))

SETTLE = update(
    "instances",
    Settlement._fields[:-1],
    ("key",),
    {
        "is_waiting_on_written": "",
        "waiting_on": "CASE WHEN {is_waiting_on_written} THEN {waiting_on} ELSE instances.waiting_on END",
    },
)

REACH = update("instances", Reach._fields[:-1], ("key",))

SHOW = Dialects(
    "UPDATE instances SET custom_status = coalesce(?, custom_status), tags = json_patch(coalesce(tags, '{}'), ?)"
    " WHERE key = ?",
    "UPDATE instances SET custom_status = coalesce($1, custom_status),"
    " tags = jsonb_strip_nulls(coalesce(tags, '{}')::jsonb || $2::text::jsonb)::text WHERE key = $3",
)

_BEGINNER = "(SELECT s.build FROM sessions s WHERE s.id = instances.session)"
_OPENED = Opening._fields[:-1]
OPEN_RUN = Batch(
    f"UPDATE instances SET {', '.join(f'{column} = ?' for column in _OPENED)}, begun_by = {_BEGINNER} WHERE key = ?",
    f"UPDATE instances SET {', '.join(f'{column} = u.{column}' for column in _OPENED)}, begun_by = {_BEGINNER}"
    f" FROM {rows('instances', Opening._fields)} WHERE instances.key = u.key",
    types("instances", Opening._fields),
)

TIE = update("instances", ("ties",), ("key",))

_IF_OWNED = "CASE WHEN session IS NULL THEN 0 ELSE 1 END"

# An owner notices by the number of its inbox, which no row has, that it has to look at the status.
PAUSE = (
    f"UPDATE instances SET status = {Status.PAUSED:d}, inbox_seq = inbox_seq + {_IF_OWNED}"
    f" WHERE id = ? AND status IN ({Status.PENDING:d}, {Status.RUNNING:d})"
)

UNPAUSE = (
    "UPDATE instances SET"
    f" status = CASE WHEN started_at IS NULL THEN {Status.PENDING:d} ELSE {Status.RUNNING:d} END,"
    " wake_at = CASE WHEN started_at IS NOT NULL AND session IS NULL THEN ? ELSE wake_at END,"
    f" inbox_seq = inbox_seq + {_IF_OWNED}"
    f" WHERE id = ? AND status = {Status.PAUSED:d}"
)

WITH_MAIL = f"SELECT key FROM instances WHERE session = ? AND {_HAS_MAIL}"

# A lane is what one probe of an index covers, in the order of claims: a definition and a priority here, a
# definition and the build that blocked it below. The recursions step from one lane to the next, so that the
# instances in between are never visited.
_DEFINITIONS = "definitions (workflow, version) AS (SELECT {} FROM {})"
_OF_SQLITE = _DEFINITIONS.format("json_extract(value, '$[0]'), json_extract(value, '$[1]')", "json_each(?1)")
_OF_POSTGRES = _DEFINITIONS.format("value ->> 0, value ->> 1", "json_array_elements($1::json)")


def _of_definitions(recursion: str) -> Dialects:
    """Render a query that begins with the definitions which a worker serves, its first parameter, a JSON array."""
    return Dialects(f"WITH RECURSIVE {_OF_SQLITE}, {recursion}", f"WITH RECURSIVE {_OF_POSTGRES}, {recursion}")


LANES = _of_definitions(f"""
  lanes (workflow, version, priority) AS (
    SELECT workflow, version, (
      SELECT max(i.priority) FROM instances i
      WHERE i.workflow = d.workflow AND i.version = d.version AND {_IS_READY}
    ) FROM definitions d
    UNION ALL
    SELECT workflow, version, (
      SELECT max(i.priority) FROM instances i
      WHERE i.workflow = l.workflow AND i.version = l.version AND i.priority < l.priority AND {_IS_READY}
    ) FROM lanes l WHERE priority IS NOT NULL
  )
SELECT workflow, version, priority, (
  SELECT min(i.wake_at) FROM instances i
  WHERE i.workflow = l.workflow AND i.version = l.version AND i.priority = l.priority AND {_IS_READY}
), (
  SELECT min(i.wake_at) FROM instances i
  WHERE i.workflow = l.workflow AND i.version = l.version AND i.priority = l.priority AND {_IS_READY}
    AND i.wake_at > ?2
) FROM lanes l WHERE priority IS NOT NULL
""")

DUE_IN_LANE = (
    "SELECT -priority, wake_at, key FROM instances"
    f" WHERE workflow = ? AND version = ? AND priority = ? AND wake_at <= ? AND {_IS_READY}"
    " ORDER BY wake_at, key LIMIT ?"
)

# Whether a session is live, and whether anything is blocked.
LOOK = Dialects(
    f"SELECT EXISTS ({IS_LIVE.sqlite}), EXISTS (SELECT 1 FROM instances WHERE {_IS_BLOCKED})",
    f"SELECT EXISTS ({IS_LIVE.postgres}), EXISTS (SELECT 1 FROM instances WHERE {_IS_BLOCKED})",
)

BLOCKED_LANES = _of_definitions(f"""
  builds (workflow, version, build) AS (
    SELECT workflow, version, (
      SELECT min(i.build) FROM instances i
      WHERE i.workflow = d.workflow AND i.version = d.version AND {_IS_BLOCKED}
    ) FROM definitions d
    UNION ALL
    SELECT workflow, version, (
      SELECT min(i.build) FROM instances i
      WHERE i.workflow = b.workflow AND i.version = b.version AND i.build > b.build AND {_IS_BLOCKED}
    ) FROM builds b WHERE build IS NOT NULL
  )
SELECT workflow, version, build FROM builds WHERE build <> ?2
UNION ALL
SELECT workflow, version, NULL FROM definitions
""")

_BLOCKED_IN = f"SELECT -priority, wake_at, key FROM instances WHERE {_IS_BLOCKED} AND workflow = ? AND version = ?"
_BLOCKED_ORDER = "AND wake_at <= ? ORDER BY priority DESC, wake_at, key LIMIT ?"

BLOCKED_BY_BUILD = f"{_BLOCKED_IN} AND build = ? {_BLOCKED_ORDER}"

BLOCKED_BY_NONE = f"{_BLOCKED_IN} AND build IS NULL {_BLOCKED_ORDER}"

# What another worker has taken or is about to take is left out, and so is what has been sent to sleep since.
CLAIMABLE = (
    "SELECT key, started_at IS NULL FROM instances WHERE key IN (SELECT value FROM json_each(?))"
    f" AND {_IS_IDLE} AND wake_at <= ?"
    f" AND (status < {Status.PAUSED:d} OR status = {Status.BLOCKED:d} AND (build IS NULL OR build <> ?))"
    " ORDER BY key /*pg FOR NO KEY UPDATE SKIP LOCKED */"
)

TAKEN = (
    "SELECT key FROM instances WHERE session = ? AND key IN (SELECT value FROM json_each(?))"
    " /*pg FOR NO KEY UPDATE NOWAIT */"
)

# A build that could not go on with the very first turn has undone it: the run begins with the build that takes it now.
_IS_UNBEGUN = (
    f"status = {Status.BLOCKED:d} AND build IS NOT NULL AND next_seq = 0 AND waiting_on IS NULL AND recoveries = 0"
)

TAKE = (
    f"UPDATE instances SET session = ?, status = {Status.RUNNING:d}, started_at = coalesce(started_at, ?),"
    " runtime = coalesce(runtime, (SELECT s.runtime FROM sessions s WHERE s.id = ?)),"
    f" begun_by = CASE WHEN begun_by IS NULL OR ({_IS_UNBEGUN}) THEN ? ELSE begun_by END,"
    f" recoveries = CASE WHEN status = {Status.BLOCKED:d} THEN 0 ELSE recoveries END,"
    " inbox_seen = inbox_seq, reason = NULL WHERE key IN (SELECT value FROM json_each(?))"
)

FREE = f"UPDATE instances SET session = NULL, wake_at = {_WAKE_WHEN_FREED} WHERE session = ?"

FREE_STRAYS = (
    f"{FREE} AND key NOT IN (SELECT value FROM json_each(?)) AND execution_id NOT IN (SELECT value FROM json_each(?))"
)

FREE_AND_COUNT = (
    f"UPDATE instances SET session = NULL, wake_at = {_WAKE_WHEN_FREED},"
    " recoveries = recoveries + CASE WHEN wake_at <= ? THEN 1 ELSE 0 END WHERE session = ?"
)

END = (
    "UPDATE instances SET session = NULL, wake_at = NULL, waiting_on = NULL, reason = NULL, build = NULL,"
    " status = ?, closed_at = ?, next_seq = next_seq + 1 WHERE key = ?"
)

# Nobody owns what has ended; whoever claims it next reads its whole inbox.
REOPEN = (
    f"UPDATE instances SET status = {Status.RUNNING:d}, wake_at = ?, closed_at = NULL, reason = NULL, build = NULL,"
    " waiting_on = NULL, recoveries = 0, next_seq = ?, drained_seq = ?, deadline = ? WHERE key = ?"
)

CONTINUE = (
    f"UPDATE instances SET status = {Status.RUNNING:d}, run = ?, next_seq = ?, drained_seq = ?, started_at = ?,"
    " runtime = ?, begun_by = ?, ties = ? WHERE key = ?"
)

UNBLOCK = (
    f"UPDATE instances SET wake_at = ?, build = NULL, recoveries = 0 WHERE key = ? AND status = {Status.BLOCKED:d}"
)

# A comparison of rows would walk through all instances of the present lane.
NEXT_LANE = " UNION ALL ".join(
    "SELECT * FROM (SELECT workflow, version, priority FROM instances"
    f" WHERE {beyond} AND {_IS_READY} ORDER BY workflow, version, priority LIMIT 1) AS next"
    for beyond in (
        "workflow = ? AND version = ? AND priority > ?",
        "workflow = ? AND version > ?",
        "workflow > ?",
    )
)

BLOCK = (
    f"UPDATE instances SET status = {Status.BLOCKED:d}, reason = ?, build = NULL WHERE key IN"
    f" (SELECT key FROM instances WHERE workflow = ? AND version = ? AND priority = ? AND wake_at < ? AND {_IS_READY}"
    " ORDER BY key /*pg FOR NO KEY UPDATE SKIP LOCKED */)"
)
