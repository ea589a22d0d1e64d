"""What is in a database, whichever it is."""

from __future__ import annotations

from typing import Any, cast

from romancy.storage.protocol import Storage
from romancy.storage.sql_storage import SqlStorage
from romancy.storage.urls import storage_at


async def rows_of(storage: Storage, sql: str) -> list[tuple[Any, ...]]:
    """Execute a query on a storage's own connection."""
    found = await cast("SqlStorage[Any]", storage)._read(lambda tx: tx.rows(sql))
    return [tuple(row) for row in found]


async def execute_at(url: str, sql: str) -> None:
    """Execute one statement on a database, and commit."""
    storage = storage_at(url)
    await storage.open()
    try:
        await cast("SqlStorage[Any]", storage)._write(lambda tx: tx.rows(sql))
    finally:
        await storage.close()


async def rows_at(url: str, *queries: str) -> list[list[tuple[Any, ...]]]:
    """Execute queries on a database that nobody here has open."""
    storage = storage_at(url)
    await storage.open(migrate=False)
    try:
        return [await rows_of(storage, sql) for sql in queries]
    finally:
        await storage.close()
