"""Which files SQLite storage opens, and that it leaves the others alone."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from romancy.core.clock import ManualClock
from romancy.errors import SchemaVersionError, StorageError
from romancy.storage import migrations, sqlite_schema
from romancy.storage.sqlite import SqliteStorage
from romancy.storage.sqlite_file import MEMORY, inspect, locate
from romancy.testing.storage_suite.making import Worker

pytestmark = pytest.mark.anyio

FRESH_PROCESS = """
import asyncio, sys
from romancy.core.records import NewInstance
from romancy.storage.sqlite import SqliteStorage

async def main(path, number):
    storage = SqliteStorage(path)
    await storage.open()
    for n in range(10):
        number += 1
        await storage.create(NewInstance(str(number), number, "w", "1", b"", 0))
    await storage.close()

sys.stdin.read()
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def create(path: Path) -> None:
    storage = SqliteStorage(path)
    await storage.open()
    await storage.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


async def refuse(path: Path, error: type[StorageError], match: str, *, migrate: bool = True) -> None:
    """Open a file that must be refused; check that it and its folder are as they were, and no thread is left."""
    before = contents(path.parent), set(threading.enumerate())
    with pytest.raises(error, match=match) as caught:
        await SqliteStorage(path, lock_timeout=timedelta(seconds=0.1)).open(migrate=migrate)
    assert str(path) in str(caught.value)
    assert (contents(path.parent), set(threading.enumerate())) == before


class TestLocate:
    @pytest.mark.parametrize(
        ("text", "path", "synchronous"),
        [
            ("sqlite:///relative.db", str(Path("relative.db").absolute()), "FULL"),
            ("sqlite:///sub/relative.db", str(Path("sub/relative.db").absolute()), "FULL"),
            ("sqlite:////abs/file.db", "/abs/file.db", "FULL"),
            ("sqlite:////abs/a%20b%3F.db", "/abs/a b?.db", "FULL"),
            ("sqlite:////abs/file.db?synchronous=NORMAL", "/abs/file.db", "NORMAL"),
            ("sqlite:////abs/file.db?synchronous=normal", "/abs/file.db", "NORMAL"),
            ("sqlite://", MEMORY, "FULL"),
            ("sqlite:///", MEMORY, "FULL"),
            ("sqlite:///:memory:", MEMORY, "FULL"),
            (":memory:", MEMORY, "FULL"),
            ("/abs/a%20b.db", "/abs/a%20b.db", "FULL"),
            ("plain.db", str(Path("plain.db").absolute()), "FULL"),
            (Path("/abs/path.db"), "/abs/path.db", "FULL"),
        ],
    )
    async def test_locate_reads(self, text: str | Path, path: str, synchronous: str) -> None:
        location = locate(text)
        assert (location.path, location.synchronous) == (path, synchronous)
        assert location.is_memory == (path == MEMORY)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("sqlite:relative.db", "sqlite:///relative.db"),
            ("sqlite:/abs.db", "sqlite:////absolute.db"),
            ("sqlite://relative.db", "sqlite:///relative.db"),
            ("sqlite:///a.db?sync=FULL", "'sync'"),
            ("sqlite:///a.db?synchronous=SOMETIMES", "'SOMETIMES'.*NORMAL"),
        ],
    )
    async def test_locate_refuses(self, text: str, match: str) -> None:
        with pytest.raises(StorageError, match=match):
            locate(text)

    async def test_storage_keeps_its_file_when_the_working_directory_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        storage = SqliteStorage("sqlite:///here.db")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await storage.open()
        await storage.close()
        assert list(contents(tmp_path)) == ["here.db"]


class TestOpen:
    async def test_open_creates_a_file_that_says_whose_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "new.db"
        await create(path)
        assert list(contents(tmp_path)) == ["new.db"]
        assert path.read_bytes()[68:72] == b"roma"
        assert inspect(str(path), lock_timeout=0) == migrations.load("sqlite")[-1].number

    @pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
    async def test_open_sets_journal_and_durability(self, tmp_path: Path, synchronous: str) -> None:
        storage = SqliteStorage(tmp_path / "new.db", synchronous=synchronous)
        await storage.open()
        pragmas = ("journal_mode", "synchronous", "busy_timeout")
        values = [await storage._writer.read(lambda c, p=p: c.execute(f"PRAGMA {p}").fetchone()[0]) for p in pragmas]  # type: ignore[misc]
        assert values == ["wal", {"NORMAL": 1, "FULL": 2}[synchronous], 0]
        await storage.close()

    async def test_open_again_finds_what_was_written(self, tmp_path: Path, clock: ManualClock) -> None:
        path = tmp_path / "a b?ü.db"
        for round_ in range(2):
            storage = SqliteStorage(path, clock=clock)
            await storage.open(migrate=round_ == 0)
            worker = await Worker.start(storage, clock)
            await (worker.read("x") if round_ else worker.create("x"))
            await storage.close()

    async def test_open_takes_an_empty_file(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.db"
        path.touch()
        await create(path)
        assert inspect(str(path), lock_timeout=0) > 0

    async def test_open_takes_a_database_without_tables(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.db"
        connection = sqlite3.connect(path)
        connection.execute("VACUUM")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        await create(path)
        assert path.read_bytes()[68:72] == b"roma"

    async def test_open_finishes_what_a_killed_creator_has_left(self, tmp_path: Path) -> None:
        """A crash in the middle of the first commit leaves pages and the journal that undoes them."""
        path = tmp_path / "hot.db"
        source = tmp_path / "source"
        source.mkdir()
        connection = sqlite3.connect(source / "hot.db", isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN EXCLUSIVE")
        sqlite_schema.migrate(connection, 0)
        # More than the cache holds, so that the journal is complete before the commit.
        connection.execute("INSERT INTO sessions VALUES (1, 0, 'b', zeroblob(100000), '', 'h', 1, '', 1)")
        (tmp_path / "hot.db-journal").write_bytes((source / "hot.db-journal").read_bytes())
        connection.execute("COMMIT")
        connection.close()
        path.write_bytes((source / "hot.db").read_bytes()[: 4096 * 3])
        await create(path)
        assert inspect(str(path), lock_timeout=0) > 0
        assert sorted(contents(tmp_path)) == ["hot.db"]

    async def test_open_reads_what_a_killed_process_has_left_in_the_log(
        self, tmp_path: Path, clock: ManualClock
    ) -> None:
        source = SqliteStorage(tmp_path / "source.db", clock=clock)
        await source.open()
        await (await Worker.start(source, clock)).create("x")
        for suffix in ("", "-wal"):
            (tmp_path / f"copy.db{suffix}").write_bytes((tmp_path / f"source.db{suffix}").read_bytes())
        await source.close()
        copy = SqliteStorage(tmp_path / "copy.db", clock=clock)
        await copy.open(migrate=False)
        assert await copy.get("x") is not None
        await copy.close()

    async def test_open_twice_is_refused(self, tmp_path: Path) -> None:
        storage = SqliteStorage(tmp_path / "new.db")
        await storage.open()
        with pytest.raises(StorageError, match="opened before"):
            await storage.open()
        await storage.close()

    async def test_close_ends_all_threads_and_use_is_refused(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        storage = SqliteStorage(tmp_path / "a.db")
        await storage.open()
        await asyncio.gather(*(storage.get(str(n)) for n in range(10)))
        await storage.close()
        assert set(threading.enumerate()) == before
        assert list(contents(tmp_path)) == ["a.db"]
        with pytest.raises(StorageError, match=r"a\.db"):
            await storage.get("x")

    async def test_ten_processes_open_a_fresh_file_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / "fresh.db"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", FRESH_PROCESS, str(path), str(100 * n)],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for n in range(10)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            assert process.stderr is not None
            errors = await asyncio.to_thread(process.stderr.read)
            process.stderr.close()
            assert (process.wait(), errors) == (0, "")
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT count(*) FROM instances").fetchone() == (100,)
        assert connection.execute("SELECT count(*) FROM migrations").fetchone() == (1,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


class TestRefusals:
    @pytest.mark.parametrize("mode", ["DELETE", "WAL"])
    @pytest.mark.parametrize("migrate", [True, False])
    async def test_foreign_database_is_left_alone(self, tmp_path: Path, mode: str, migrate: bool) -> None:
        path = tmp_path / "foreign.db"
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE instances (id)")
        connection.commit()
        connection.close()
        await refuse(path, SchemaVersionError, "romancy did not create", migrate=migrate)

    async def test_foreign_database_that_is_in_use_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "foreign.db"
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE theirs (id)")
        connection.commit()
        await refuse(path, SchemaVersionError, "romancy did not create")
        connection.close()

    async def test_database_of_another_application_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "foreign.db"
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA application_id = 1234")
        connection.close()
        await refuse(path, SchemaVersionError, "romancy did not create")

    async def test_newer_schema_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "newer.db"
        await create(path)
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO migrations VALUES (9999, 'future', 0)")
        connection.commit()
        connection.close()
        await refuse(path, SchemaVersionError, r"9999.*upgrade romancy")

    async def test_newer_schema_that_is_in_use_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "newer.db"
        await create(path)
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO migrations VALUES (9999, 'future', 0)")
        connection.commit()
        before = path.read_bytes()
        with pytest.raises(SchemaVersionError, match="9999"):
            await SqliteStorage(path).open()
        assert path.read_bytes() == before
        connection.close()

    @pytest.mark.parametrize("size", [0, 5, 50_000])
    async def test_text_file_is_left_alone(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("x" * size + "\n")
        await refuse(path, SchemaVersionError, "not a SQLite database")

    @pytest.mark.parametrize("damage", ["schema page", "truncated"])
    @pytest.mark.parametrize("mode", ["DELETE", "WAL"])
    async def test_corrupt_database_is_left_alone(self, tmp_path: Path, damage: str, mode: str) -> None:
        path = tmp_path / "corrupt.db"
        await create(path)
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.close()
        sound = path.read_bytes()
        path.write_bytes(sound[:100] + os.urandom(3000) + sound[3100:] if damage == "schema page" else sound[:200])
        await refuse(path, StorageError, "backup")

    async def test_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        await refuse(tmp_path / "folder", StorageError, "directory")

    async def test_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"missing.*create it"):
            await SqliteStorage(tmp_path / "missing" / "a.db").open()
        assert contents(tmp_path) == {}

    async def test_fresh_file_is_not_created_when_it_may_only_be_verified(self, tmp_path: Path) -> None:
        with pytest.raises(SchemaVersionError, match="migrate=True"):
            await SqliteStorage(tmp_path / "new.db").open(migrate=False)
        assert contents(tmp_path) == {}

    async def test_older_schema_is_left_alone_when_it_may_only_be_verified(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "older.db"
        await create(path)
        steps = [*migrations.load("sqlite"), migrations.Migration(2, "0002_more", "CREATE TABLE more (a);\n")]
        monkeypatch.setattr(migrations, "load", {"sqlite": steps}.__getitem__)
        await refuse(path, SchemaVersionError, r"needs 2.*migrate=True", migrate=False)
        await create(path)
        assert inspect(str(path), lock_timeout=0) == 2


class TestMigrations:
    async def test_a_step_that_fails_leaves_the_schema_as_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.db"
        await create(path)
        script = "CREATE TABLE more (a);\nCREATE TABLE instances (a);\n"
        steps = [*migrations.load("sqlite"), migrations.Migration(2, "0002_wrong", script)]
        monkeypatch.setattr(migrations, "load", {"sqlite": steps}.__getitem__)
        with pytest.raises(StorageError, match=r"a\.db.*instances already exists"):
            await create(path)
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)
        connection.close()
        assert inspect(str(path), lock_timeout=0) == 1

    async def test_steps_are_numbered_without_gaps(self) -> None:
        steps = migrations.load("sqlite")
        assert [step.number for step in steps] == list(range(1, len(steps) + 1))
        assert [step.name[:4] for step in steps] == [f"{step.number:04}" for step in steps]
