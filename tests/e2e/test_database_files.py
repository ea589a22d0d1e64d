"""Files that an App can't use are refused with a reason, and not touched."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from romancy import App, SchemaVersionError, StorageError, workflow

from .conftest import MakeApp

pytestmark = pytest.mark.anyio


@workflow
async def database_nothing() -> str:
    return "done"


async def a_file_of_ours(path: Path) -> None:
    async with App(f"sqlite:///{path}", workflows=[database_nothing]) as app:
        assert await app.run(database_nothing(), id="one") == "done"


async def newer(path: Path) -> None:
    await a_file_of_ours(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(migrations)")]
        row = list(connection.execute("SELECT * FROM migrations").fetchone())
        row[0] = 9999
        connection.execute(f"INSERT INTO migrations VALUES ({', '.join('?' * len(columns))})", row)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


async def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE instances (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")


async def corrupt(path: Path) -> None:
    await a_file_of_ours(path)
    content = bytearray(path.read_bytes())
    content[:64] = b"\xff" * 64
    path.write_bytes(content)


async def text(path: Path) -> None:
    path.write_text("This is not a database.\n" * 100)


async def cut_short(path: Path) -> None:
    await a_file_of_ours(path)
    path.write_bytes(path.read_bytes()[:5_000])


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (newer, SchemaVersionError),
        (foreign, SchemaVersionError),
        (corrupt, StorageError),
        (text, StorageError),
        (cut_short, StorageError),
    ],
    ids=["newer", "foreign", "corrupt", "text", "cut-short"],
)
async def test_unusable_file_is_refused_and_not_touched(
    tmp_path: Path, make_app: MakeApp, spoil: object, error: type[StorageError]
) -> None:
    path = tmp_path / "orders.db"
    ways = {each.__name__: each for each in (newer, foreign, corrupt, text, cut_short)}
    await ways[getattr(spoil, "__name__", "")](path)
    before = sha256(path.read_bytes()).hexdigest()
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    for _ in range(2):
        with pytest.raises(error) as caught:
            async with make_app(f"sqlite:///{path}"):
                pass
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) > len(str(path)) + 30, "it says what to do"
    assert sha256(path.read_bytes()).hexdigest() == before
    assert [each.name for each in tmp_path.iterdir()] == ["orders.db"]
    assert set(threading.enumerate()) == threads
    assert asyncio.all_tasks() == tasks


async def test_missing_folder_and_unreadable_urls_are_refused(tmp_path: Path, make_app: MakeApp) -> None:
    for url, told in (
        (f"sqlite:///{tmp_path}/none/orders.db", "none"),
        (f"sqlite:///{tmp_path}", str(tmp_path)),
        ("postgresql://localhost/orders", "postgresql"),
        (f"sqlite:///{tmp_path}/orders.db?synchronous=SOMETIMES", "SOMETIMES"),
    ):
        with pytest.raises(StorageError, match=told):
            async with make_app(url):
                pass


async def test_migrate_off_refuses_an_empty_database(tmp_path: Path, make_app: MakeApp) -> None:
    path = tmp_path / "orders.db"
    with pytest.raises(SchemaVersionError, match="migrate"):
        async with make_app(f"sqlite:///{path}", migrate=False):
            pass
    await a_file_of_ours(path)
    async with make_app(f"sqlite:///{path}", migrate=False) as app:
        assert await (await app.get("one")).result() == "done"
