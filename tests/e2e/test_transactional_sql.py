"""The SQL of transactional activities: what it returns, what fails alone, what is refused."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from romancy import (
    Connection,
    NonRetryableError,
    StorageError,
    WorkflowFailedError,
)

from .conftest import MakeApp
from .transactional import (
    bodies,
    forget,
    rows,
    starts,
    work,
    write,
)

# What SQLite says and refuses; for PostgreSQL see test_transactional_sql_postgres.py.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("back_end", ["sqlite"], indirect=True)]


@pytest.fixture(autouse=True)
def fresh_world(request: pytest.FixtureRequest) -> None:
    forget(request)


async def test_statements_return_rows_and_counts(make_app: MakeApp) -> None:
    async def body(db: Connection) -> list[Any]:
        many = await db.executemany("INSERT INTO tx VALUES (:text)", [{"text": "a"}, {"text": "b"}, {"text": "c"}])
        changed = await db.execute("UPDATE tx SET text = text || '!' WHERE text > ? RETURNING text", ("a",))
        inserted = await db.execute("INSERT INTO tx VALUES ('d')")
        return [
            many.rowcount,
            sorted(changed.rows),
            inserted.lastrowid,
            await db.fetch_one("SELECT count(*) FROM tx"),
            await db.fetch_one("SELECT 1 WHERE 0"),
            await db.fetch_all("SELECT text FROM tx WHERE text < 'c' ORDER BY text"),
        ]

    bodies["all"] = body
    async with make_app() as app:
        assert await work(app, "all") == [[3, [["b!"], ["c!"]], 4, [4], None, [["a"], ["b!"]]]]


async def test_statement_that_fails_is_undone_alone(make_app: MakeApp) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        with pytest.raises(sqlite3.IntegrityError):
            await db.executemany("INSERT INTO tx VALUES (?)", [("new",), ("tea",)])
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await db.execute("SELECT * FROM nowhere")
        with pytest.raises(sqlite3.ProgrammingError):
            await db.execute("SELECT ?", ())
        await write(db, "milk")
        return "done"

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == ["done"]
        assert await rows(app) == ["milk", "tea"]


async def test_statement_that_ends_the_transaction_by_its_failure_ends_the_attempt(make_app: MakeApp) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        if starts["tea"] == 1:
            with pytest.raises(sqlite3.IntegrityError):
                await db.execute("INSERT OR ROLLBACK INTO tx VALUES ('tea')")
            with pytest.raises(StorageError, match="was undone"):
                await write(db, "milk")
        return "done"

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == ["done"]
        assert starts["tea"] == 2
        assert await rows(app) == ["tea"]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("COMMIT", "can't be begun or ended by SQL"),
        ("END", "can't be begun or ended by SQL"),
        ("/* well */ rollback", "can't be begun or ended by SQL"),
        ("BEGIN IMMEDIATE", "can't be begun or ended by SQL"),
        ("ATTACH ':memory:' AS other", "ATTACH would outlast"),
        ("CREATE TEMP TABLE t (x)", "CREATE TEMP TABLE would outlast"),
        ("PRAGMA synchronous = OFF", "PRAGMA synchronous would outlast"),
        ("DELETE FROM instances", "romancy's own"),
        ("UPDATE history SET payload = ''", "romancy's own"),
        ("DROP TABLE Sessions", "romancy's own"),
        ("CREATE TRIGGER t AFTER INSERT ON instances BEGIN DELETE FROM tx; END", "romancy's own"),
        ("UPDATE sqlite_sequence SET seq = 0", "romancy's own"),
    ],
)
async def test_statement_that_would_break_something_is_refused(make_app: MakeApp, statement: str, reason: str) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        with pytest.raises(NonRetryableError, match=reason):
            await db.execute(statement)
        await write(db, "milk")
        return "done"

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == ["done"]
        assert await rows(app) == ["milk", "tea"]


async def test_statement_of_the_engine_is_refused_even_if_the_connection_knows_it(make_app: MakeApp) -> None:
    async def body(db: Connection) -> None:
        await db.execute("COMMIT")

    bodies["tea"] = body
    async with make_app() as app:
        with pytest.raises(WorkflowFailedError, match="refused: 'COMMIT'"):
            await work(app, "tea")
        assert starts["tea"] == 1


async def test_savepoints_undo_a_part(make_app: MakeApp) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        await db.execute("SAVEPOINT work")
        await write(db, "milk")
        await db.execute("ROLLBACK TO work")
        await write(db, "sugar")
        await db.execute("RELEASE work")
        await db.execute("SAVEPOINT left_open")
        return "done"

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == ["done"]
        assert await rows(app) == ["sugar", "tea"]
