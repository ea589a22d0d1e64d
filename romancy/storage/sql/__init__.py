"""The statements, one file per aggregate, each rendered from one list of columns.

They are dull on purpose: what a commit does is decided in `romancy.storage.decision`. Parameters are ``?``,
in the order of the tuples of `romancy.storage.rows`; sets of keys are bound as one JSON array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def names(columns: Sequence[str], table: str = "") -> str:
    """Render a list of columns, each with its table if one is given."""
    return ", ".join(f"{table}.{column}" if table else column for column in columns)


def assignments(columns: Sequence[str]) -> str:
    """Render the assignments of an UPDATE."""
    return ", ".join(f"{column} = ?" for column in columns)


def insert(table: str, columns: Sequence[str]) -> str:
    """Render an INSERT of one row."""
    return f"INSERT INTO {table} ({names(columns)}) VALUES ({', '.join('?' * len(columns))})"
