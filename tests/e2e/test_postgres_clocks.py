"""Time is the server's: neither its time zone nor a process whose own clock is wrong changes anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from romancy import App
from tests.postgres import Server, temporary_server

from .processes import running
from .scripts.skewed import WORKFLOWS, letters, skewed_sleeper, skewed_waiter

pytestmark = pytest.mark.anyio

HOUR = 3600.0
LATEST = 15.0
"""Seconds: however busy the machine is, it is no hour late."""
TTL = timedelta(seconds=2)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Server]:
    """Give a server in a time zone that is not a whole number of hours from UTC."""
    with temporary_server() as (dsn, _):
        server = Server(dsn)
        asyncio.run(server.execute("ALTER SYSTEM SET timezone = 'Asia/Kathmandu'"))
        asyncio.run(server.execute("SELECT pg_reload_conf()"))
        while asyncio.run(server.execute("SHOW timezone"))[0][0] != "Asia/Kathmandu":
            time.sleep(0.05)  # the server reads its file again when it comes to it
        yield server


@pytest.fixture
async def url(anyio_backend: str, elsewhere: Server) -> AsyncIterator[str]:
    async with elsewhere.schema() as schema:
        yield f"{elsewhere.dsn}&schema={schema}"


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
async def test_timers_take_as_long_as_they_say(url: str, skew: float) -> None:
    async with running("skewed.py", url, skew) as process, App(url, worker=False) as client:
        await process.expect("serving")
        began = time.monotonic()
        sleeping = await client.start(skewed_sleeper(1.0), id="sleeping")
        in_vain = await client.start(skewed_waiter(1.0), id="in vain")
        waiting = await client.start(skewed_waiter(10.0), id="waiting")
        later = await client.start(skewed_waiter(10.0), id="later", delay=timedelta(seconds=3))
        await client.send(letters, "hello", to="waiting")
        assert await waiting.result(timeout=5) == "hello"
        assert time.monotonic() - began < 3
        assert (await later.info()).status == "pending"
        assert 1.0 <= await sleeping.result(timeout=5) < LATEST
        assert await in_vain.result(timeout=5) == "in vain"
        assert 1.0 <= time.monotonic() - began < LATEST
        await client.send(letters, "late", to="later")
        assert await later.result(timeout=8) == "late"
        assert 3.0 <= time.monotonic() - began < LATEST
        infos = [await handle.info() for handle in (sleeping, in_vain, waiting, later)]
        for info in infos:
            assert abs((info.created_at - datetime.now(UTC)).total_seconds()) < 20
            assert info.closed_at is not None
            assert info.closed_at >= info.created_at


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
async def test_sessions_live_and_die_by_the_server_s_clock(url: str, skew: float) -> None:
    async with App(url, workflows=WORKFLOWS, session_ttl=TTL) as app:
        assert app.worker is not None
        ours = app.worker._session.id
        async with running("skewed.py", url, skew) as process:
            await process.expect("serving")
            began = time.monotonic()
            async with App(url, worker=False) as client:
                for n in range(20):
                    await client.start(skewed_sleeper(4.0), id=f"{n}")
            handles = [await app.get(f"{n}") for n in range(20)]
            await asyncio.sleep(2.5)  # longer than a session lives that nobody renews
            assert app.worker._session.id == ours
            assert [(await handle.info()).status for handle in handles] == ["running"] * 20
            process.kill()
            assert all([4.0 <= await handle.result(timeout=15) < LATEST for handle in handles])
            assert 4.0 <= time.monotonic() - began < LATEST
            assert {(await handle.info()).recoveries for handle in handles} == {0}
