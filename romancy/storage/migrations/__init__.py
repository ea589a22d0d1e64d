"""The schema, as numbered steps. A step that was released never changes; what comes after it is a new one."""

from __future__ import annotations

import sqlite3
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_ID = 0x726F6D61
"""Marks a SQLite file as romancy's, in its header: "roma"."""


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    name: str
    script: str


def load() -> list[Migration]:
    """Read the steps that this romancy knows, in their order."""
    files = (file for file in resources.files(__name__).iterdir() if file.name.endswith(".sql"))
    steps = (
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in files
    )
    return sorted(steps)


def version_of(connection: sqlite3.Connection) -> int:
    """Return the number of the last step that a database has taken; 0 if it is empty."""
    if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
        return 0
    (number,) = connection.execute("SELECT max(number) FROM migrations").fetchone()
    return int(number or 0)


def migrate(connection: sqlite3.Connection, now: int) -> None:
    """Take the steps that are missing, within a transaction."""
    version = version_of(connection)
    missing = [step for step in load() if step.number > version]
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
