"""Statements on tags."""

from __future__ import annotations

SET = (
    "INSERT INTO tags (key, name, value) VALUES (?, ?, ?) ON CONFLICT (key, name) DO UPDATE SET value = excluded.value"
)

REMOVE = "DELETE FROM tags WHERE key = ? AND name = ?"

DELETE = "DELETE FROM tags WHERE key = ?"
