"""What is written by many rows at once is what was given, whatever it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romancy.core.records import Status
from romancy.storage.postgres_arrays import arrays
from romancy.storage.sql import rows, types
from tests.postgres import Server

COLUMNS = ("key", "run", "kind", "is_progress", "workflow", "payload")
TYPES = ("bigint", "integer", "smallint", "boolean", "text", "bytea")


@pytest.fixture(scope="module")
def connection(postgres: Server) -> Iterator[tuple[asyncio.AbstractEventLoop, asyncpg.Connection[Any]]]:
    loop = asyncio.new_event_loop()
    made = loop.run_until_complete(asyncpg.connect(postgres.dsn))
    yield loop, made
    loop.run_until_complete(made.close())
    loop.close()


def numbers(bits: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


values = st.tuples(
    numbers(64),
    numbers(32),
    numbers(16),
    st.none() | st.booleans(),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.none() | st.binary(),
)


@settings(max_examples=200, deadline=None)
@given(given_rows=st.lists(values, max_size=6))
def test_rows_come_back_as_they_were(
    connection: tuple[asyncio.AbstractEventLoop, asyncpg.Connection[Any]], given_rows: list[tuple[Any, ...]]
) -> None:
    loop, there = connection
    assert types("instances", COLUMNS) == TYPES
    text = f"SELECT * FROM {rows('instances', COLUMNS)}"
    found = loop.run_until_complete(there.fetch(text, *arrays(given_rows, TYPES)))
    assert [tuple(row) for row in found] == given_rows


def test_members_of_enums_and_booleans_are_their_numbers() -> None:
    assert arrays([(Status.RUNNING,), (True,), (-3,), (None,)], ("integer",)) == ["{1,1,-3,NULL}"]
    assert arrays([(Status.RUNNING,), (False,)], ("integer",)) == ["{1,0}"]


def test_no_rows_are_empty_arrays() -> None:
    assert arrays([], ("bigint", "text")) == ["{}", []]


@pytest.mark.parametrize("wrong", ["1", 1.0, b"1", object()], ids=["str", "float", "bytes", "object"])
@pytest.mark.parametrize("beside", [1, None])
def test_what_is_no_number_is_refused(wrong: object, beside: object) -> None:
    with pytest.raises(asyncpg.DataError, match="a number is expected"):
        arrays([(beside,), (wrong,)], ("bigint",))
