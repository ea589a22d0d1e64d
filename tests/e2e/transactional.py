"""Activities whose transactions the tests fill, one body for each name, and ways to see what has come of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from romancy import App, Connection, RetryPolicy, activity, connection, workflow

from .tables import rows_at

AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1))
BRIEF = timedelta(milliseconds=300)

starts: Counter[str] = Counter()
bodies: dict[str, Callable[[Connection], Awaitable[Any]]] = {}


class Dialect:
    """How SQL is written on the database under test."""

    parameter = "?"


def forget(request: pytest.FixtureRequest) -> None:
    """Begin a test."""
    starts.clear()
    bodies.clear()
    is_postgres = "back_end" in request.fixturenames and request.getfixturevalue("back_end").name == "postgres"
    Dialect.parameter = "$1" if is_postgres else "?"


async def write(db: Connection, text: str) -> None:
    """Add a row; no two of the same text are possible."""
    await db.execute(f"INSERT INTO tx (text) VALUES ({Dialect.parameter})", (text,))


@activity(transactional=True)
async def tx_prepare() -> None:
    await connection().execute("CREATE TABLE IF NOT EXISTS tx (text TEXT UNIQUE)")


@activity(transactional=True, retry=AT_ONCE)
async def tx_do(what: str) -> Any:
    """Do what a test has put under a name."""
    starts[what] += 1
    return await bodies[what](connection())


@activity(transactional=True, retry=AT_ONCE, timeout=BRIEF)
async def tx_do_in_time(what: str) -> Any:
    starts[what] += 1
    return await bodies[what](connection())


@activity(transactional=True)
async def tx_read() -> list[str]:
    return [text for (text,) in await connection().fetch_all("SELECT text FROM tx ORDER BY text")]


@workflow
async def tx_work(whats: list[str]) -> list[Any]:
    await tx_prepare()
    return await asyncio.gather(*(tx_do(what) for what in whats))


@workflow
async def tx_work_in_time(what: str) -> list[Any]:
    await tx_prepare()
    return [await tx_do_in_time(what)]


@workflow
async def tx_audit() -> list[str]:
    await tx_prepare()
    return await tx_read()


async def work(app: App, *whats: str, id: str | None = None) -> list[Any]:
    """Run activities with these bodies side by side, and return what they returned."""
    return await app.run(tx_work(list(whats)), id=id)


async def rows(app: App) -> list[str]:
    """Return what is committed of the author's own table."""
    return await app.run(tx_audit())


async def look(database: str) -> tuple[list[str], int]:
    """Return from outside the process the rows that are committed, and how many results are recorded."""
    recorded = "SELECT count(*) FROM history WHERE activity_id LIKE '%:tx_do'"
    found, ((count,),) = await rows_at(database, "SELECT text FROM tx ORDER BY text", recorded)
    return [text for (text,) in found], count
