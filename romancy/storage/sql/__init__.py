"""The statements, one file per aggregate, each rendered from one list of columns.

They are dull on purpose: what a commit does is decided in `romancy.storage.decision`. There is one text for both
databases, in SQLite's dialect, which `romancy.storage.postgres_dialect` translates; where the two have no common way of
saying something, a statement is a `Dialects`. Parameters are ``?``; a set of values is one parameter, a list, and
``/*pg ... */`` is what only PostgreSQL needs: its row locks.

What is written for many rows at once is a `Batch`: one execution a row on SQLite, one statement on PostgreSQL.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPES = {
    "activity_id": "text",
    "at": "timestamptz",
    "attempt": "integer",
    "begun_by": "text",
    "body": "bytea",
    "build": "text",
    "channel": "text",
    "child": "bigint",
    "closed_at": "timestamptz",
    "created_at": "timestamptz",
    "custom_status": "bytea",
    "deadline": "timestamptz",
    "details": "bytea",
    "drained_seq": "integer",
    "execution_id": "bigint",
    "handed_key": "bigint",
    "headers": "bytea",
    "id": "text",
    "inbox_seen": "integer",
    "inbox_seq": "integer",
    "input": "bytea",
    "is_pending": "smallint",
    "is_progress": "boolean",
    "is_served": "smallint",
    "is_settlement": "boolean",
    "is_told": "smallint",
    "is_waiting_on_written": "boolean",
    "key": "bigint",
    "kind": "smallint",
    "last_seq": "bigint",
    "mailbox": "text",
    "message_id": "text",
    "mode": "smallint",
    "name": "text",
    "next_seq": "integer",
    "parent": "bigint",
    "payload": "bytea",
    "policy": "text",
    "priority": "smallint",
    "reason": "bytea",
    "recoveries": "integer",
    "run": "integer",
    "runtime": "text",
    "sender": "text",
    "sent_at": "timestamptz",
    "seq": "integer",
    "session": "bigint",
    "since": "bigint",
    "stamp": "timestamptz",
    "started_at": "timestamptz",
    "status": "smallint",
    "tags": "text",
    "ties": "smallint",
    "ticket": "bigint",
    "topic_seq": "bigint",
    "trace_context": "text",
    "turn": "integer",
    "value": "text",
    "version": "text",
    "waiting_on": "bytea",
    "wake_at": "timestamptz",
    "workflow": "text",
}
"""What PostgreSQL calls the type of each column; a name means the same in every table."""

_NUMBER = re.compile(r"\$(\d+)")
WRITTEN_OUT = frozenset({"bigint", "boolean", "integer", "smallint"})
"""Types whose arrays are sent as text: that costs a third of what asyncpg takes to encode them."""

_TYPES_OF_TABLE = {("topics", "seq"): "bigint"}


class Dialects(NamedTuple):
    """A statement that reads differently on the two databases; PostgreSQL's parameters are ``$1`` and so on."""

    sqlite: str
    postgres: str


class Batch(NamedTuple):
    """A statement that is executed for each of a number of rows, which are all different.

    Attributes:
        sqlite: To be executed once a row.
        postgres: To be executed once, with an array for each column.
        types: What PostgreSQL calls the types of the columns.
    """

    sqlite: str
    postgres: str
    types: tuple[str, ...]


def names(columns: Sequence[str], table: str = "") -> str:
    """Render a list of columns, each with its table if one is given."""
    return ", ".join(f"{table}.{column}" if table else column for column in columns)


def insert(table: str, columns: Sequence[str], then: str = "") -> Batch:
    """Render an INSERT; ``then`` is what follows: ON CONFLICT, RETURNING."""
    into = f"INSERT INTO {table} ({names(columns)})"
    return Batch(
        f"{into} VALUES ({', '.join('?' * len(columns))}) {then}".rstrip(),
        f"{into} SELECT {names(columns, 'u')} FROM {rows(table, columns)} {then}".rstrip(),
        types(table, columns),
    )


def update(table: str, columns: Sequence[str], by: Sequence[str], given: dict[str, str] | None = None) -> Batch:
    """Render an UPDATE whose parameters are the new values of columns, and then the values that find the row.

    Args:
        table: What to update.
        columns: The parameters, in their order; each is a column to set, unless ``given`` says otherwise.
        by: The further parameters: the columns that find the row; the first of them is indexed.
        given: For columns whose new values are expressions, these, in which ``{name}`` stands for a parameter; for
            parameters that are no columns, an empty text.
    """
    given = given or {}

    def render(marks: dict[str, str]) -> str:
        return ", ".join(
            f"{column} = {given.get(column, '{' + column + '}').format(**marks)}"
            for column in columns
            if given.get(column) != ""
        )

    parameters = (*columns, *by)
    ours = render({name: f"?{number}" for number, name in enumerate(parameters, 1)})
    theirs = render({name: f"u.{name}" for name in parameters})
    found = " AND ".join(f"{name} = ?{number}" for number, name in enumerate(by, 1 + len(columns)))
    joined = " AND ".join(f"{table}.{name} = u.{name}" for name in by)
    # Without the ANY, a plan that was made for a small table reads all of a large one.
    pinned = f"{table}.{by[0]} = ANY({array(table, by[0], len(columns) + 1)})"
    return Batch(
        f"UPDATE {table} SET {ours} WHERE {found}",
        f"UPDATE {table} SET {theirs} FROM {rows(table, parameters)} WHERE {joined} AND {pinned}",
        types(table, parameters),
    )


def delete(table: str, by: Sequence[str]) -> Batch:
    """Render a DELETE of single rows, found by columns of which the first is indexed."""
    joined = " AND ".join(f"{table}.{name} = u.{name}" for name in by)
    pinned = f"{table}.{by[0]} = ANY({array(table, by[0], 1)})"
    return Batch(
        f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in by)}",
        f"DELETE FROM {table} USING {rows(table, by)} WHERE {joined} AND {pinned}",
        types(table, by),
    )


def rows(table: str, columns: Sequence[str]) -> str:
    """Render PostgreSQL's rows of a batch, as a source named ``u``; the arrays are the first parameters."""
    arrays = ", ".join(array(table, name, number) for number, name in enumerate(columns, 1))
    return f"unnest({arrays}) AS u ({names(columns)})"


def array(table: str, column: str, number: int) -> str:
    """Render PostgreSQL's parameter of that number, which has a value of a column for each row."""
    (type_,) = types(table, (column,))
    return f"${number}::text::{type_}[]" if type_ in WRITTEN_OUT else f"${number}::{type_}[]"


def types(table: str, columns: Sequence[str]) -> tuple[str, ...]:
    """Return what PostgreSQL calls the types of columns."""
    return tuple(_TYPES_OF_TABLE.get((table, column), TYPES[column]) for column in columns)


def shifted(text: str, by: int) -> str:
    """Renumber the parameters of a text of PostgreSQL's, so that others can come before them."""
    return _NUMBER.sub(lambda found: f"${int(found[1]) + by}", text)
