"""The commit that is one statement, and the one that locks, decides and writes, do the same on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import asyncpg
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romancy.core.records import LEAVE, Entry, Status
from romancy.errors import SessionLostError
from romancy.storage import commit, postgres_plain
from romancy.storage.commit import Answer
from romancy.storage.plain import answers_of
from romancy.storage.postgres import PostgresStorage
from romancy.storage.postgres_connections import Connections
from romancy.storage.postgres_tx import Plan, PostgresTx
from romancy.storage.sql import TYPES
from romancy.testing.storage_suite.making import note
from tests.postgres import Server
from tests.storage.batches import KEYS, NOW, ROW, SESSION, entries, rows

T = TypeVar("T")
TABLES = ("instances", "history", "messages", "sessions", "heartbeats")


class Bench:
    """A connection on which every try begins with the same rows and is undone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: asyncpg.Connection[Any]) -> None:
        self.loop = loop
        self.connection = connection

    def try_out(
        self, given_rows: list[dict[str, object]], work: Callable[[PostgresTx], Awaitable[T]]
    ) -> tuple[T, list[object]]:
        """Do something with rows; return what it returned, and all rows after it."""
        return self.loop.run_until_complete(self._try_out(given_rows, work))

    async def _try_out(
        self, given_rows: list[dict[str, object]], work: Callable[[PostgresTx], Awaitable[T]]
    ) -> tuple[T, list[object]]:
        await self.connection.execute("BEGIN")
        try:
            await self._fill(given_rows)
            plan = Plan()
            plan.is_careful = True
            result = await work(PostgresTx(self.connection, NOW, NOW, plan))
            return result, [
                [tuple(row) for row in await self.connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]
                for table in TABLES
            ]
        finally:
            await self.connection.execute("ROLLBACK")

    async def _fill(self, given_rows: list[dict[str, object]]) -> None:
        execute = self.connection.execute
        await execute(
            "INSERT INTO sessions OVERRIDING SYSTEM VALUE VALUES ($1, $2, 'b', '[]', '', '', 0, '', $2)",
            SESSION,
            NOW + 1,
        )
        for key, changes in zip(KEYS, given_rows, strict=True):
            row = ROW | changes | {"key": key, "id": str(key)}
            marks = ", ".join(f"${number}::{TYPES[name]}" for number, name in enumerate(row, 1))
            text = f"INSERT INTO instances ({', '.join(row)}) OVERRIDING SYSTEM VALUE VALUES ({marks})"
            await execute(text, *row.values())
            await execute(
                "INSERT INTO messages (key, seq, kind, channel, message_id, body, at)"
                " SELECT $1, n, 1, 'c', 'm', '', $2 FROM generate_series(1, 3) n",
                key,
                NOW,
            )
            await execute("INSERT INTO heartbeats VALUES ($1, 0, '1:a', 1, '')", key)


async def at_once(tx: PostgresTx, batch: Sequence[Entry]) -> list[Answer]:
    written = await postgres_plain.write(tx, SESSION, batch)
    return answers_of(
        batch, written, await commit.write(tx, SESSION, [entry for entry in batch if entry.key not in written])
    )


@pytest.fixture(scope="module")
def bench(postgres: Server) -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    schema = postgres.new_schema()

    async def prepare() -> asyncpg.Connection[Any]:
        storage = PostgresStorage(postgres.dsn, schema=schema, listen=False)
        await storage.open()
        await storage.close()
        return await Connections(storage.settings)._get()

    connection = loop.run_until_complete(prepare())
    try:
        yield Bench(loop, connection)
    finally:
        loop.run_until_complete(connection.close())
        loop.run_until_complete(postgres.execute(f'DROP SCHEMA "{schema}" CASCADE'))
        loop.close()


def plain(batch: Sequence[Entry]) -> list[Entry]:
    return [msgspec.structs.replace(entry, requests=[], next_run=None, silenced=()) for entry in batch]


def check_that_both_agree(bench: Bench, given_rows: list[dict[str, object]], batch: Sequence[Entry]) -> None:
    asked = plain(batch)
    assert bench.try_out(given_rows, lambda tx: at_once(tx, asked)) == bench.try_out(
        given_rows, lambda tx: commit.commit(tx, SESSION, asked)
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(rows, min_size=4, max_size=4), st.tuples(*(entries(key) for key in KEYS)))
def test_both_paths_agree(bench: Bench, given_rows: list[dict[str, object]], batch: tuple[Entry, ...]) -> None:
    check_that_both_agree(bench, given_rows, batch)


@settings(max_examples=200, deadline=None)
@given(st.tuples(*(entries(key) for key in KEYS)))
def test_both_paths_agree_when_all_entries_hold(bench: Bench, batch: tuple[Entry, ...]) -> None:
    check_that_both_agree(bench, [{}] * len(KEYS), batch)


def ordinary() -> list[Entry]:
    statuses = (Status.RUNNING, Status.RUNNING, Status.COMPLETED, Status.BLOCKED)
    return [
        Entry(key, 50, 0, 2, 3, NOW, [note()], [1], [], status, wake_at, 3)
        for key, status, wake_at in zip(KEYS, statuses, (LEAVE, None, None, NOW), strict=True)
    ]


def written(bench: Bench, given_rows: list[dict[str, object]], batch: Sequence[Entry], session: int) -> set[int]:
    return bench.try_out(given_rows, lambda tx: postgres_plain.write(tx, session, batch))[0]


def test_ordinary_turns_need_no_decision(bench: Bench) -> None:
    assert postgres_plain.is_possible(ordinary())
    assert written(bench, [{}] * 4, ordinary(), SESSION) == set(KEYS)


CHANGES: list[dict[str, object]] = [
    {"inbox_seq": 4},
    {"next_seq": 3},
    {"session": 8},
    {"status": 2},
    {"run": 1},
    {"execution_id": 51},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_only_entries_whose_conditions_are_not_met_are_decided(bench: Bench, change: dict[str, object]) -> None:
    assert written(bench, [{}, {}, change, {}], ordinary(), SESSION) == {1, 2, 4}


def test_end_that_concerns_others_is_decided(bench: Bench) -> None:
    assert written(bench, [{"ties": 1}] * 4, ordinary(), SESSION) == {1, 2, 4}


def test_dead_session_writes_nothing(bench: Bench) -> None:
    with pytest.raises(SessionLostError):
        written(bench, [{"session": 8}] * 4, ordinary(), 8)


def test_two_entries_for_one_instance_are_not_written(bench: Bench) -> None:
    entry = ordinary()[0]
    assert not postgres_plain.is_possible([entry, entry])
