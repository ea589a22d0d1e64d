"""Statements on the runs that recur has closed."""

from __future__ import annotations

from romancy.core.records import KeptRun
from romancy.storage.rows import ArchiveRow
from romancy.storage.sql import insert, names

INSERT = insert("archives", ArchiveRow._fields)

OF_INSTANCE = (
    f"SELECT {names(KeptRun.__struct_fields__)} FROM archives WHERE key = ? AND run < ? ORDER BY run DESC LIMIT ?"
)

EXPIRED = "SELECT key, run FROM archives WHERE closed_at <= ? ORDER BY closed_at LIMIT ? /*pg FOR UPDATE SKIP LOCKED */"

DELETE_ONE = "DELETE FROM archives WHERE key = ? AND run = ?"

DELETE = "DELETE FROM archives WHERE key = ?"
