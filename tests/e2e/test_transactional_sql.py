"""The SQL of transactional activities: what it returns, what fails alone, what is refused or undone."""

from __future__ import annotations

import sqlite3
from typing import Any

import asyncpg
import pytest

from romancy import Connection, NonRetryableError, StorageError, WorkflowFailedError

from .conftest import MakeApp
from .transactional import bodies, forget, rows, starts, work, write

pytestmark = pytest.mark.anyio
on_sqlite = pytest.mark.parametrize("back_end", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("back_end", ["postgres"], indirect=True)


@pytest.fixture(autouse=True)
def fresh_world(request: pytest.FixtureRequest) -> None:
    forget(request)


@on_sqlite
async def test_statements_return_rows_and_counts_on_sqlite(make_app: MakeApp) -> None:
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


@on_postgres
async def test_statements_return_rows_and_counts_on_postgres(make_app: MakeApp) -> None:
    async def body(db: Connection) -> list[Any]:
        many = await db.executemany("INSERT INTO tx VALUES ($1)", [("a",), ("b",), ("c",)])
        changed = await db.execute("UPDATE tx SET text = text || '!' WHERE text > $1 RETURNING text", ("a",))
        return [
            many.rowcount,
            sorted(changed.rows),
            changed.rowcount,
            (await db.execute("CREATE TABLE other (x integer)")).rowcount,
            await db.fetch_one("SELECT count(*) FROM tx"),
            await db.fetch_one("SELECT 1 WHERE false"),
            await db.fetch_all("SELECT text FROM tx WHERE text < $1 ORDER BY text", ("c",)),
        ]

    bodies["all"] = body
    async with make_app() as app:
        assert await work(app, "all") == [[3, [["b!"], ["c!"]], 2, -1, [3], None, [["a"], ["b!"]]]]


@on_sqlite
async def test_statement_that_fails_is_undone_alone_on_sqlite(make_app: MakeApp) -> None:
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


@on_postgres
async def test_statement_that_fails_is_undone_alone_on_postgres(make_app: MakeApp) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        with pytest.raises(asyncpg.UniqueViolationError):
            await db.executemany("INSERT INTO tx VALUES ($1)", [("new",), ("tea",)])
        with pytest.raises(asyncpg.UndefinedTableError):
            await db.execute("SELECT * FROM nowhere")
        with pytest.raises(asyncpg.DataError):
            await db.execute("INSERT INTO tx VALUES ($1)", (7,))
        with pytest.raises(asyncpg.InterfaceError):
            await db.execute("INSERT INTO tx VALUES ($1)", ())
        with pytest.raises(NonRetryableError, match="not by name"):
            await db.execute("INSERT INTO tx VALUES ($1)", {"text": "milk"})
        await write(db, "milk")
        return "done"

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == ["done"]
        assert await rows(app) == ["milk", "tea"]


@on_sqlite
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


@on_postgres
async def test_transaction_whose_connection_is_cut_is_undone_and_tried_again(make_app: MakeApp) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        if starts["tea"] == 1:
            with pytest.raises(StorageError):
                await db.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            with pytest.raises(StorageError):
                await write(db, "milk")
        return "done"

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == ["done"]
        assert starts["tea"] == 2
        assert await rows(app) == ["tea"]


@on_postgres
async def test_constraint_that_is_checked_at_the_end_fails_the_attempt(make_app: MakeApp) -> None:
    async def body(db: Connection) -> str:
        await db.execute("CREATE TABLE IF NOT EXISTS late (x integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        await db.execute("INSERT INTO late VALUES (1)")
        if starts["tea"] == 1:
            await db.execute("INSERT INTO late VALUES (1)")
        return "done"

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == ["done"]
        assert starts["tea"] == 2


async def refuses(make_app: MakeApp, statement: str, reason: str) -> None:
    """Check that a statement is refused, and nothing else is harmed."""

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


@on_sqlite
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
async def test_statement_that_would_break_something_is_refused_on_sqlite(
    make_app: MakeApp, statement: str, reason: str
) -> None:
    await refuses(make_app, statement, reason)


@on_postgres
@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("COMMIT", "can't be begun or ended by SQL"),
        ("END", "can't be begun or ended by SQL"),
        ("/* well */ rollback", "can't be begun or ended by SQL"),
        ("-- well\nROLLBACK", "can't be begun or ended by SQL"),
        ("BEGIN", "can't be begun or ended by SQL"),
        ("PREPARE TRANSACTION 'x'", "can't be begun or ended by SQL"),
        ("DELETE FROM instances", "romancy's own"),
        ("UPDATE ONLY history SET payload = ''", "romancy's own"),
        ('DROP TABLE IF EXISTS "sessions"', "romancy's own"),
        ("TRUNCATE messages", "romancy's own"),
        ("WITH gone AS (DELETE FROM messages RETURNING 1) SELECT * FROM gone", "romancy's own"),
    ],
)
async def test_statement_that_would_break_something_is_refused_on_postgres(
    make_app: MakeApp, statement: str, reason: str
) -> None:
    await refuses(make_app, statement, reason)


async def test_statement_that_is_refused_ends_the_activity(make_app: MakeApp) -> None:
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


@on_postgres
async def test_table_of_the_author_may_have_the_name_of_one_of_ours(make_app: MakeApp) -> None:
    async def body(db: Connection) -> list[Any]:
        await db.execute("CREATE TEMPORARY TABLE messages (x integer)")
        await db.execute("INSERT INTO pg_temp.messages VALUES (1)")
        return await db.fetch_all("SELECT x FROM pg_temp.messages")

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == [[[1]]]


@on_postgres
async def test_what_an_author_sets_is_gone_for_the_next(make_app: MakeApp) -> None:
    shown = "SELECT current_setting('statement_timeout'), current_setting('search_path')"

    async def looks(db: Connection) -> list[Any]:
        return await db.fetch_all(f"{shown}, to_regclass('pg_temp.left_over')::text")

    async def sets(db: Connection) -> None:
        await db.execute("SET statement_timeout = '7s'")
        await db.execute("SET search_path = pg_catalog")
        await db.execute("CREATE TEMPORARY TABLE left_over (x integer)")

    bodies["before"], bodies["after"] = looks, looks
    bodies["sets"] = sets
    async with make_app() as app:
        before = await work(app, "before")
        await work(app, "sets")
        for _ in range(5):
            assert await work(app, "after") == before
