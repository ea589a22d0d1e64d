"""PostgreSQL storage joins the conformance suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from romancy.storage.postgres import PostgresStorage
from romancy.testing.clock import ShiftedClock
from romancy.testing.storage_suite import Database, StorageSuite
from tests.postgres import Server


class PostgresSchema(Database):
    parameter = "$1"

    def __init__(self, server: Server, schema: str) -> None:
        self.clock = ShiftedClock()
        self.server = server
        self.schema = schema

    def storage(self) -> PostgresStorage:
        # An author's own tables are in the same schema: what the suite makes, and what it must not touch.
        url = f"{self.server.dsn}&search_path={self.schema}"
        return PostgresStorage(url, schema=self.schema, clock=self.clock, pool_size=4)

    async def execute(self, sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.server.dsn, server_settings={"search_path": self.schema})
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()


class TestPostgres(StorageSuite):
    @pytest.fixture
    async def database(self, anyio_backend: str, postgres: Server) -> AsyncIterator[PostgresSchema]:
        async with postgres.schema() as schema:
            yield PostgresSchema(postgres, schema)
