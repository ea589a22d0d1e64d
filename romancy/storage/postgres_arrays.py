"""Many rows as PostgreSQL takes them in one statement: an array for each column."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import asyncpg

from romancy.storage.sql import WRITTEN_OUT

if TYPE_CHECKING:
    from collections.abc import Sequence

_repr = int.__repr__  # of an enum's member or a bool too it is the number


def arrays(rows: Sequence[Sequence[object]], types: Sequence[str]) -> list[list[object] | str]:
    """Make a parameter of each column of rows.

    Raises:
        asyncpg.DataError: There is something else than a number where there has to be one.
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return [
        _written_out(column) if type_ in WRITTEN_OUT else list(column)
        for column, type_ in zip(columns, types, strict=True)
    ]


def _written_out(column: Sequence[object]) -> str:
    try:
        parts = list(map(_repr, cast("Sequence[int]", column)))
    except TypeError:  # there is a None, or something worse
        parts = [_or_null(number) for number in column]
    return f"{{{','.join(parts)}}}"


def _or_null(number: object) -> str:
    if number is None:
        return "NULL"
    try:
        return _repr(cast("int", number))
    except TypeError as error:
        raise asyncpg.DataError(f"a number is expected: {error}") from error
