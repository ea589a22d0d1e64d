"""Statements on the links between parents and children."""

from __future__ import annotations

from romancy.core.records import Status
from romancy.storage.rows import ChildRow
from romancy.storage.sql import insert, names

_CHILD = names(ChildRow._fields, "c")

LINK = insert("children", ChildRow._fields)

OF_PARENT = f"SELECT {_CHILD} FROM children c WHERE c.parent = ? ORDER BY c.run, c.activity_id"

LINKS = (
    "SELECT c.run, c.activity_id, i.key, i.id, i.workflow, i.status, c.policy"
    " FROM children c JOIN instances i ON i.key = c.child WHERE c.parent = ? ORDER BY c.run, i.key"
)

BY_ACTIVITY = "SELECT child FROM children WHERE parent = ? AND run = ? AND activity_id = ?"

UNTOLD_PARENTS = f"SELECT {_CHILD} FROM children c WHERE c.child = ? AND c.is_told = 0 ORDER BY c.parent, c.run"

TELL = "UPDATE children SET is_told = 1 WHERE parent = ? AND run = ? AND activity_id = ?"

TOLD_PARENTS = (
    "SELECT p.id FROM children c JOIN instances p ON p.key = c.parent"
    f" WHERE c.child = ? AND c.is_told = 1 AND p.status < {Status.COMPLETED:d} ORDER BY p.key"
)

UNTELL = "UPDATE children SET is_told = 0 WHERE parent = ? AND run = ? AND activity_id = ?"

UNLINK = "DELETE FROM children WHERE parent = ? AND run = ? AND activity_id = ?"

DELETE_OF_PARENT = "DELETE FROM children WHERE parent = ?"

DELETE_OF_CHILD = "DELETE FROM children WHERE child = ?"
