"""The database goes away, and comes back: whoever asks is told in time, and everything goes on by itself."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from functools import partial

import pytest

from romancy import App, InstanceClosedError, InstanceNotFoundError, StorageError
from tests.postgres import Server

from .proxy import Proxy
from .work import done, letters, outage_steps, outage_wait

pytestmark = pytest.mark.anyio

LONGEST = 12.0
"""Seconds after which a call must have given up."""


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    done.clear()


def lines_of(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


@pytest.mark.parametrize("number", range(1, 11))  # it takes ten, or one less where two fall together
async def test_acknowledgement_of_any_commit_is_lost(url: str, proxy: Proxy, number: int) -> None:
    """Start, send, turn commits, completion: what was written is recognised, and nothing is done twice."""
    async with App(url) as app:
        proxy.loses_commit = proxy.commits + number
        steps = await app.start(outage_steps("a", 2), id="steps", on_conflict="raise")
        waiting = await app.start(outage_wait(), id="waiting", on_conflict="raise")
        await app.send(letters, "hello", to="waiting")
        assert await steps.result(timeout=20) == 1
        assert await waiting.result(timeout=20) == "hello"
        assert [event.kind for event in await steps.history()].count("activity_completed") == 2
    assert set(done) == {"a/0", "a/1"}
    assert max(done.values()) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_acknowledgement_of_a_claim_is_lost(url: str, direct_url: str, proxy: Proxy, number: int) -> None:
    """What was claimed is known to its owner all the same, long before its session would expire."""
    async with App(url) as app, App(direct_url, worker=False) as client:
        assert app.worker is not None
        proxy.loses_commit = proxy.commits + number
        steps = await client.start(outage_steps("a", 2), id="steps")
        waiting = await client.start(outage_wait(), id="waiting")
        await client.send(letters, "hello", to="waiting")
        assert await steps.result(timeout=5) == 1
        assert await waiting.result(timeout=5) == "hello"
    assert max(done.values()) == 1


async def test_acknowledgement_of_what_a_client_asks_is_lost(url: str, proxy: Proxy) -> None:
    """Whatever the answer would be to one who asks twice: this one has asked once."""
    async with App(url, worker=False) as app:
        await app.start(outage_wait(), id="one")
        for ask in (
            partial(app.pause, "one"),
            partial(app.unpause, "one"),
            partial(app.terminate, "one", reason="enough"),
            partial(app.purge, "one"),
        ):
            before = proxy.commits
            proxy.loses_commit = before + 1
            await ask()
            assert proxy.commits == before + 2
        with pytest.raises(InstanceNotFoundError):
            await app.purge("one")
        other = await app.start(outage_wait(), id="other")
        await other.terminate()
        with pytest.raises(InstanceClosedError):
            await other.terminate()


async def test_cut_connections_are_replaced(url: str, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    async with App(url) as app:
        handles = [await app.start(outage_steps(f"{n}", 20), id=f"{n}") for n in range(10)]
        for _ in range(5):
            await asyncio.sleep(0.05)
            proxy.cut()
        assert [await handle.result(timeout=20) for handle in handles] == [190] * 10
    assert max(done.values()) == 1
    assert lines_of(caplog, "lost: ")
    assert len(lines_of(caplog, "back after")) == len(lines_of(caplog, "lost: "))


async def test_calls_in_an_outage_fail_soon_and_work_goes_on_after_it(
    url: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(url, session_ttl=timedelta(seconds=3)) as app:
        steps = await app.start(outage_steps("a", 100), id="steps")
        waiting = await app.start(outage_wait(), id="waiting")
        proxy.is_refusing = True
        proxy.cut()
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
            await app.start(outage_wait(), id="late")
        with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
            await app.send(letters, "early", to="waiting")
        assert time.monotonic() - began < 2
        await asyncio.sleep(1)
        proxy.is_refusing = False
        assert await steps.result(timeout=20) == 4950
        await app.send(letters, "hello", to="waiting")
        assert await waiting.result(timeout=20) == "hello"
    assert set(done) == {f"a/{n}" for n in range(100)}
    assert len(lines_of(caplog, "lost: ")) == len(lines_of(caplog, "back after")) == 1


async def test_calls_into_a_black_hole_fail_in_time(url: str, proxy: Proxy) -> None:
    async with App(url) as app:
        waiting = await app.start(outage_wait(), id="waiting")
        proxy.is_silent = True
        began = time.monotonic()
        calls = [app.start(outage_wait(), id="late"), app.send(letters, "hello", to="waiting"), waiting.status()]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        took = time.monotonic() - began
        proxy.is_silent = False
        assert [type(failure) for failure in failures] == [StorageError] * 3
        assert took < LONGEST
        await app.send(letters, "hello again", to="waiting", message_id="again")
        assert (await waiting.result(timeout=20)).startswith("hello")


async def test_many_callers_of_a_black_hole_fail_in_time(url: str, proxy: Proxy) -> None:
    async with App(url, worker=False) as app:
        proxy.is_silent = True
        began = time.monotonic()
        calls = (app.get(f"{n}") for n in range(100))
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(failure) for failure in failures} == {StorageError}
        assert time.monotonic() - began < LONGEST + 6
        proxy.is_silent = False


async def test_half_open_connection_in_a_transaction_holds_up_nobody(
    url: str, direct_url: str, proxy: Proxy, postgres: Server, schema: str
) -> None:
    """Whoever vanishes with locks is thrown out by the server; its instances are another's."""
    async with App(url, session_ttl=timedelta(seconds=3)) as app:
        await app.start(outage_steps("a", 300), id="steps")
        await asyncio.sleep(0.3)
        proxy.is_silent = True
        async with App(direct_url, session_ttl=timedelta(seconds=3)) as other:
            assert await (await other.get("steps")).result(timeout=20) == 300 * 299 // 2
        proxy.is_silent = False
        proxy.cut()
    assert set(done) == {f"a/{n}" for n in range(300)}
    left = await postgres.execute(f'SELECT count(*) FROM "{schema}".instances WHERE session IS NOT NULL')
    assert left[0][0] == 0


@pytest.mark.parametrize("whom", ["LISTEN", "all"])
async def test_server_ends_connections(
    direct_url: str, postgres: Server, schema: str, caplog: pytest.LogCaptureFixture, whom: str
) -> None:
    caplog.set_level(logging.WARNING)
    async with App(direct_url) as app, App(direct_url, worker=False) as client:
        handles = [await app.start(outage_steps(f"{n}", 20), id=f"{n}") for n in range(5)]
        waiting = await app.start(outage_wait(), id="waiting")
        await asyncio.sleep(0.1)
        which = "AND query LIKE 'LISTEN%'" if whom == "LISTEN" else ""
        search_path = "AND application_name = 'romancy' AND pid <> pg_backend_pid()"
        ended = await postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE true {search_path} {which}"
        )
        assert ended
        await client.send(letters, "hello", to="waiting")
        assert await waiting.result(timeout=20) == "hello"
        assert [await handle.result(timeout=20) for handle in handles] == [190] * 5
    assert max(done.values()) == 1


async def test_lost_notification_costs_a_poll_interval(direct_url: str) -> None:
    """Without notifications a run that another process owns gets its message all the same."""
    deaf = f"{direct_url}&listen=0"
    async with App(deaf, poll_interval=timedelta(milliseconds=200)) as owner, App(deaf, worker=False) as client:
        handle = await client.start(outage_wait(), id="waiting")
        while await handle.status() != "running":
            await asyncio.sleep(0.01)
        assert owner.worker is not None
        assert owner.worker.hot_count == 1
        began = time.monotonic()
        await client.send(letters, "hello", to="waiting")
        assert await (await owner.get("waiting")).result(timeout=10) == "hello"
        assert time.monotonic() - began < 5
