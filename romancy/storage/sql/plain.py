"""Statements that do what `decide` does, for entries that depend on nothing but their conditions."""

from __future__ import annotations

from romancy.core.records import Status
from romancy.storage.rows import HistoryRow, PlainRow
from romancy.storage.sql import array, history, messages, names, rows, shifted, types
from romancy.storage.sql.sessions import FENCE

# On SQLite, once for each entry. The parameters are the session, and the columns of the entry, of which an entry that
# only advances has the first ones.
ADVANCED = 1 + PlainRow._fields.index("inbox_seen")
"""How many these are."""

_NUMBERS = {name: f"?{number}" for number, name in enumerate(PlainRow._fields, 2)}
_MOVED = (
    "next_seq = {next_seq}, drained_seq = {drained_seq},"
    " recoveries = CASE WHEN {is_progress} THEN 0 ELSE recoveries END"
)
_UNCHANGED = (
    "key = {key} AND session = ?1 AND execution_id = {execution_id} AND run = {run} AND next_seq = {seq}"
    f" AND inbox_seq = {{inbox_seen}} AND inbox_seen = {{inbox_seen}} AND status = {Status.RUNNING:d}"
)

ADVANCE_IF_UNCHANGED = f"UPDATE instances SET {_MOVED} WHERE {_UNCHANGED}".format(**_NUMBERS)

SETTLE_IF_UNCHANGED = (
    f"UPDATE instances SET {_MOVED}, session = {{session}}, status = {{status}},"
    " wake_at = CASE WHEN {is_waiting_on_written} THEN {wake_at} ELSE wake_at END,"
    " waiting_on = CASE WHEN {is_waiting_on_written} THEN {waiting_on} ELSE waiting_on END,"
    " reason = {reason}, build = {build}, closed_at = {closed_at}"
    f" WHERE {_UNCHANGED} AND (ties = 0 OR {{closed_at}} IS NULL)"
).format(**_NUMBERS)

# On PostgreSQL, once for all entries. The session is fenced before anything is locked, instances are locked in order
# of their keys, and where an entry does not hold then, nothing is written. The parameters are the present, the session,
# and the columns of the entries, of their events, and of what they have consumed.
_ENTRY = 2
_EVENT = _ENTRY + len(PlainRow._fields)
_CONSUMED = _EVENT + len(HistoryRow._fields)
_KEYS = array("instances", "key", _ENTRY + 1 + PlainRow._fields.index("key"))
_LOCKED = ("key", "session", "execution_id", "run", "next_seq", "status", "inbox_seq", "inbox_seen", "ties")
_IS_WRITTEN = "u.key IN (SELECT key FROM holding)"

WRITE_IF_UNCHANGED = f"""
WITH fence AS MATERIALIZED ({FENCE.postgres}),
  locked AS MATERIALIZED (
    SELECT {names(_LOCKED)} FROM instances
    WHERE key = ANY({_KEYS}) AND EXISTS (SELECT 1 FROM fence) ORDER BY key FOR NO KEY UPDATE
  ),
  holding AS MATERIALIZED (
    SELECT u.*, u.is_settlement OR u.inbox_seen > i.inbox_seen AS is_settling
    FROM {shifted(rows("instances", PlainRow._fields), _ENTRY)} JOIN locked i ON i.key = u.key
    WHERE i.session = $2 AND i.execution_id = u.execution_id AND i.run = u.run AND i.next_seq = u.seq
      AND i.status = {Status.RUNNING:d} AND i.inbox_seq <= greatest(i.inbox_seen, u.inbox_seen)
      AND (i.ties = 0 OR u.closed_at IS NULL)
  ),
  changed AS (
    UPDATE instances SET
      session = u.session,
      status = u.status,
      next_seq = u.next_seq,
      drained_seq = u.drained_seq,
      recoveries = CASE WHEN u.is_progress THEN 0 ELSE instances.recoveries END,
      inbox_seen = greatest(instances.inbox_seen, u.inbox_seen),
      wake_at = CASE WHEN u.is_waiting_on_written THEN u.wake_at ELSE instances.wake_at END,
      waiting_on = CASE WHEN u.is_waiting_on_written THEN u.waiting_on ELSE instances.waiting_on END,
      reason = CASE WHEN u.is_settling THEN u.reason ELSE instances.reason END,
      build = CASE WHEN u.is_settling THEN u.build ELSE instances.build END,
      closed_at = u.closed_at
    FROM holding u WHERE instances.key = u.key
  ),
  recorded AS ({shifted(history.INSERT.postgres, _EVENT)} WHERE {_IS_WRITTEN}),
  consumed AS ({shifted(messages.DELETE_ONE.postgres, _CONSUMED)} AND {_IS_WRITTEN})
SELECT EXISTS (SELECT 1 FROM fence), ARRAY(SELECT key FROM holding)
"""

WRITTEN = types("instances", PlainRow._fields), history.INSERT.types, messages.DELETE_ONE.types
"""The types of these columns."""
