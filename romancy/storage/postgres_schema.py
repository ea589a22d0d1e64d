"""The schema of a PostgreSQL database, and how it is brought up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from romancy.errors import SchemaVersionError
from romancy.storage import migrations

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import asyncpg

_LOCK = 0x726F6D616E6379
"""What those who migrate lock: "romancy"."""


async def prepare(connection: asyncpg.Connection[Any], name: str, schema: str, *, migrate: bool) -> None:
    """Bring a schema up to date, or only verify it, within a transaction.

    Whoever else migrates waits until this transaction is over.

    Raises:
        SchemaVersionError: The schema is newer than this romancy, or holds something else, or ``migrate`` is off and
            it is older.
    """
    latest = migrations.load("postgres")[-1].number
    version = await version_of(connection, name, schema)
    if version < latest and migrate:
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        version = await version_of(connection, name, schema)
        if version < latest:
            is_there = await connection.fetchval(_SCHEMA, schema) is not None
            await connection.execute(script(schema, after=version, creates_schema=not is_there))
            return
    if version > latest:
        raise SchemaVersionError(
            f"{name}: its schema {schema!r} has version {version}, and this romancy knows versions up to {latest};"
            " upgrade romancy, or choose another schema"
        )
    if version < latest:
        raise SchemaVersionError(
            f"{name}: its schema {schema!r} has version {version}, and this romancy needs {latest}; run `romancy"
            " migrate`, open it with migrate=True, or have what `python -m romancy.storage.migrate` prints executed"
        )


async def version_of(connection: asyncpg.Connection[Any], name: str, schema: str) -> int:
    """Return the number of the last step that a schema has taken; 0 if it is empty or does not exist.

    Raises:
        SchemaVersionError: It holds something else.
    """
    tables = {row[0] for row in await connection.fetch(_TABLES, schema)}
    if not tables:
        return 0
    if "migrations" not in tables or "instances" not in tables:
        raise SchemaVersionError(
            f"{name}: its schema {schema!r} holds tables that romancy did not create; choose another with ?schema="
        )
    found: Awaitable[int | None] = connection.fetchval(f'SELECT max(number) FROM "{schema}".migrations')
    return await found or 0


def script(schema: str, *, after: int = 0, creates_schema: bool = True) -> str:
    """Render the statements that bring a schema up to date, to be executed in one transaction."""
    # Not even IF NOT EXISTS is allowed to a role that may not create one.
    parts = [f'CREATE SCHEMA IF NOT EXISTS "{schema}";'] if creates_schema else []
    parts.append(f'SET LOCAL search_path = "{schema}";')
    for step in migrations.load("postgres"):
        if step.number > after:
            parts.append(f"-- {step.name}\n{step.script.strip()}")
            parts.append(
                f"INSERT INTO migrations (number, name, applied_at) VALUES ({step.number}, '{step.name}', now());"
            )
    return "\n\n".join(parts) + "\n"


# Not `to_regnamespace`: that it has not found a schema is remembered until the transaction is over.
_SCHEMA = "SELECT oid FROM pg_namespace WHERE nspname = $1"
_TABLES = f"SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = ({_SCHEMA})"
