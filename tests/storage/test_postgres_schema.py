"""The schema of a PostgreSQL database: made once, by whoever comes first, and never touched where it does not fit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest

from romancy.errors import SchemaVersionError, StorageError
from romancy.storage import migrations, postgres_schema
from romancy.storage.postgres import PostgresStorage
from romancy.testing.storage_suite.database import TABLES
from tests.postgres import Server

pytestmark = pytest.mark.anyio

OPEN = """
import asyncio, sys
from romancy.storage.postgres import PostgresStorage

async def main():
    storage = PostgresStorage(sys.argv[1], schema=sys.argv[2])
    sys.stdin.readline()
    await storage.open()
    await storage.close()

asyncio.run(main())
"""


@pytest.fixture
async def schema(anyio_backend: str, postgres: Server) -> AsyncIterator[str]:
    async with postgres.schema() as name:
        yield name


async def tables(postgres: Server, schema: str) -> list[str]:
    found = await postgres.execute(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}' ORDER BY 1")
    return [name for (name,) in found]


async def test_open_makes_the_schema(postgres: Server, schema: str) -> None:
    storage = PostgresStorage(postgres.dsn, schema=schema)
    await storage.open()
    await storage.close()
    assert await tables(postgres, schema) == sorted({*TABLES, "migrations"})
    steps = await postgres.execute(f'SELECT number FROM "{schema}".migrations ORDER BY number')
    assert [number for (number,) in steps] == [step.number for step in migrations.load("postgres")]


async def test_ten_processes_open_a_fresh_schema_at_once(postgres: Server, schema: str) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, postgres.dsn, schema], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(10)
    ]
    try:
        ended = await asyncio.gather(*(asyncio.to_thread(child.communicate, b"go\n", 60) for child in children))
    finally:
        for child in children:
            child.kill()
    assert [errors.decode() for _, errors in ended] == [""] * 10
    assert [child.returncode for child in children] == [0] * 10


@pytest.mark.parametrize("_", range(5))
async def test_ten_storages_open_a_fresh_schema_at_once(postgres: Server, schema: str, _: int) -> None:
    storages = [PostgresStorage(postgres.dsn, schema=schema, listen=False) for _ in range(10)]
    await asyncio.gather(*(storage.open() for storage in storages))
    await asyncio.gather(*(storage.close() for storage in storages))


async def test_schema_is_only_verified(postgres: Server, schema: str) -> None:
    with pytest.raises(SchemaVersionError, match=r"version 0, and this romancy needs 1.*romancy\.storage\.migrate"):
        await PostgresStorage(postgres.dsn, schema=schema).open(migrate=False)
    assert await tables(postgres, schema) == []
    for migrate in (True, False):
        storage = PostgresStorage(postgres.dsn, schema=schema)
        await storage.open(migrate=migrate)
        await storage.close()


async def test_schema_of_somebody_else_is_left_alone(postgres: Server, schema: str) -> None:
    await postgres.execute(f'CREATE SCHEMA "{schema}"')
    await postgres.execute(f'CREATE TABLE "{schema}".orders (id int)')
    with pytest.raises(SchemaVersionError, match="did not create"):
        await PostgresStorage(postgres.dsn, schema=schema).open()
    assert await tables(postgres, schema) == ["orders"]


async def test_schema_that_is_newer_is_left_alone(postgres: Server, schema: str) -> None:
    storage = PostgresStorage(postgres.dsn, schema=schema)
    await storage.open()
    await storage.close()
    await postgres.execute(f"INSERT INTO \"{schema}\".migrations VALUES (99, '0099_future', now())")
    with pytest.raises(SchemaVersionError, match="version 99"):
        await PostgresStorage(postgres.dsn, schema=schema).open()


async def test_printed_script_is_all_that_a_restricted_role_needs(postgres: Server, schema: str) -> None:
    command = [sys.executable, "-m", "romancy.storage.migrate", "--schema", schema]
    printed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    role = f"{schema}_role"
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await connection.execute(printed.stdout)
        await connection.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}")
        await connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
        storage = PostgresStorage(
            postgres.dsn.replace("postgres:@", f"{role}@").replace("postgres@", f"{role}@"), schema=schema
        )
        await storage.open()
        assert await storage.get("x") is None
        await storage.close()
    finally:
        await connection.execute(f"DROP SCHEMA {schema} CASCADE; DROP ROLE {role}")
        await connection.close()


async def test_database_that_can_not_be_reached_says_so() -> None:
    with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
        await PostgresStorage("postgresql://nobody@127.0.0.1:1/none").open()


def test_a_step_is_only_rendered_where_it_is_missing() -> None:
    latest = migrations.load("postgres")[-1].number
    assert "CREATE TABLE" in postgres_schema.script("s")
    assert "CREATE TABLE" not in postgres_schema.script("s", after=latest)
