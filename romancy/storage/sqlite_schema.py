"""The schema of a SQLite database, and how it is brought up to date."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from romancy.storage import migrations

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_ID = 0x726F6D61
"""Marks a SQLite file as romancy's, in its header: "roma"."""


def latest_version() -> int:
    """Return the number of the last step that this romancy knows."""
    return migrations.load("sqlite")[-1].number


def version_of(connection: sqlite3.Connection) -> int:
    """Return the number of the last step that a database has taken; 0 if it is empty."""
    if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
        return 0
    (number,) = connection.execute("SELECT max(number) FROM migrations").fetchone()
    return int(number or 0)


def migrate(connection: sqlite3.Connection, now: int) -> None:
    """Take the steps that are missing, within a transaction."""
    version = version_of(connection)
    missing = [step for step in migrations.load("sqlite") if step.number > version]
    for step in missing:
        for statement in _statements(step.script):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO migrations (number, name, applied_at) VALUES (?, ?, ?)",
            (step.number, step.name, now),
        )
    if missing:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID:d}")


def _statements(script: str) -> Iterator[str]:
    """Split a script; `executescript` would commit the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
