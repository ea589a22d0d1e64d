"""SQLite storage joins the conformance suite, on a file and in memory."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from romancy.core.clock import ManualClock
from romancy.storage.sqlite import SqliteStorage
from romancy.testing.clock import ShiftedClock
from romancy.testing.storage_suite import Database, OneProcessSuite, StorageSuite


class SqliteFile(Database):
    def __init__(self, path: Path) -> None:
        self.clock = ShiftedClock()
        self.path = path

    def storage(self) -> SqliteStorage:
        return SqliteStorage(self.path, clock=self.clock)

    async def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()


class SqliteMemory(Database):
    """One storage's own, on a clock that stands still."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._storage = SqliteStorage("sqlite://", clock=self.clock)

    def storage(self) -> SqliteStorage:
        return self._storage

    async def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return await self._storage._writer.write(lambda connection: connection.execute(sql).fetchall())


class TestSqliteFile(StorageSuite):
    @pytest.fixture
    def database(self, tmp_path: Path) -> SqliteFile:
        return SqliteFile(tmp_path / "test.db")


class TestSqliteMemory(OneProcessSuite):
    @pytest.fixture
    def database(self) -> SqliteMemory:
        return SqliteMemory()
