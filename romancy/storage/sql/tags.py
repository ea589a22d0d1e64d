"""Statements on tags."""

from __future__ import annotations

from romancy.storage.sql import delete, insert

SET = insert("tags", ("key", "name", "value"), "ON CONFLICT (key, name) DO UPDATE SET value = excluded.value")

REMOVE = delete("tags", ("key", "name"))

DELETE = "DELETE FROM tags WHERE key = ?"
