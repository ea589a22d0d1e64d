"""PostgreSQL's way of saying what `romancy.storage.sql` says in SQLite's."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from romancy.storage.sql import Dialects, sessions, shifted

if TYPE_CHECKING:
    from romancy.storage.sql import Batch
    from romancy.storage.tx import Statement

_ONLY_HERE = re.compile(r"/\*pg (.*?) \*/")
_IS_NONE_OF = re.compile(r"NOT IN \(SELECT value FROM json_each\((\?\d*)\)\)")
_IS_ONE_OF = re.compile(r"IN \(SELECT value FROM json_each\((\?\d*)\)\)")
_EACH_KEY = re.compile(r"json_each\((\?\d*)\) k\b")
_ORDERED_JOIN = re.compile(r"CROSS JOIN (?=\w+( \w+)? ON )")  # the order of joins is SQLite's affair
_PARAMETER = re.compile(r"\?(\d*)")


@functools.cache
def translate(statement: Statement) -> str:
    """Return a statement with numbered parameters, sets as arrays, and what only PostgreSQL is told."""
    text = statement.postgres if isinstance(statement, Dialects) else statement
    text = _ONLY_HERE.sub(r"\1", text)
    text = _IS_NONE_OF.sub(r"<> ALL(\1)", text)
    text = _IS_ONE_OF.sub(r"= ANY(\1)", text)
    text = _EACH_KEY.sub(r"unnest(\1::bigint[]) AS k (value)", text)
    text = _ORDERED_JOIN.sub("JOIN ", text)
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        if not found[1]:
            count += 1
        return f"${found[1] or count}"

    return _PARAMETER.sub(number, text)


def fence(session: int, present: int | None) -> str:
    """Return the statement that makes sure of a session at an instant (None: the server's), without parameters."""
    instant = "NULL" if present is None else f"timestamptz 'epoch' + {present} * interval '1 microsecond'"
    text = sessions.FENCE.postgres.replace("$1::timestamptz", instant)
    return text.replace("$2", str(session))


@functools.cache
def without_waiting(text: str) -> str:
    """Have a statement that locks rows fail where somebody else holds one."""
    return text.replace("FOR NO KEY UPDATE", "FOR NO KEY UPDATE NOWAIT")


@functools.cache
def together(batches: tuple[Batch, ...]) -> str:
    """Make one statement of batches, whose parameters follow one another."""
    if len(batches) == 1:
        return batches[0].postgres
    parts: list[str] = []
    before = 0
    for index, batch in enumerate(batches):
        parts.append(f"w{index} AS ({shifted(batch.postgres, before)})")
        before += len(batch.types)
    return f"WITH {', '.join(parts)} SELECT 1"
