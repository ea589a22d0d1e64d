"""Leaving an App leaves nothing: no ownership, no task, no thread, no warning."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections import Counter
from datetime import timedelta

import pytest

from romancy import App, Channel, NoAppError, RetryPolicy, activity, workflow
from romancy.worker.turns import Turns

from .conftest import MakeApp
from .processes import running
from .tables import rows_at

pytestmark = pytest.mark.anyio

letters = Channel("shutdown_letters", str)
bodies: Counter[str] = Counter()
begun = asyncio.Event()
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global begun, may_end
    begun, may_end = asyncio.Event(), asyncio.Event()
    bodies.clear()


@activity
async def shutdown_body(what: str) -> str:
    bodies[f"begun {what}"] += 1
    begun.set()
    await may_end.wait()
    bodies[f"ended {what}"] += 1
    return what


@activity
def shutdown_threaded(what: str) -> str:
    bodies[what] += 1
    return what


@activity
async def shutdown_next(what: str) -> str:
    bodies[f"next {what}"] += 1
    return what


@workflow
async def shutdown_work(what: str) -> list[str]:
    return [await shutdown_body(what), await shutdown_next(what)]


@workflow
async def shutdown_wait() -> str:
    return await letters.receive()


@workflow
async def shutdown_many() -> list[str]:
    return await asyncio.gather(*(shutdown_threaded(f"thread {n}") for n in range(10)))


async def owned(database: str) -> tuple[int, int]:
    """Count the sessions, and the instances that somebody owns."""
    instances = "SELECT count(*) FROM instances WHERE session IS NOT NULL"
    ((sessions,),), ((owned,),) = await rows_at(database, "SELECT count(*) FROM sessions", instances)
    return sessions, owned


@pytest.mark.parametrize("what", ["ends", "hangs"])
async def test_sigterm_leaves_nothing(database: str, hot_limit: int, what: str) -> None:
    flags = ("-X", "dev", "-W", "error")
    async with running("serve.py", database, hot_limit, what, flags=flags) as process:
        await process.expect("ready")
        process.signal(signal.SIGTERM)
        printed = await process.lines()
        assert await process.end() == 0, process.errors
        assert process.errors == ""
        assert printed == [*(["endless is told to stop"] if what == "hangs" else []), "left:"]
    assert await owned(database) == (0, 0)
    async with App(database, worker=False) as app:
        kinds = [event.activity_id for event in await (await app.get("0")).history()]
    assert sorted(kinds, key=str) == ["1:serve_quick", "2:serve_threaded"]


async def test_leaving_the_block_lets_bodies_end_and_records_them(database: str, make_app: MakeApp) -> None:
    app = make_app(database)
    async with app:
        await app.start(shutdown_work("tea"), id="tea")
        await app.start(shutdown_wait(), id="wait")
        await begun.wait()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
    assert bodies == {"begun tea": 1, "ended tea": 1}
    assert await owned(database) == (0, 0)
    async with make_app(database) as app:
        assert await (await app.get("tea")).result() == ["tea", "tea"]
    assert bodies == {"begun tea": 1, "ended tea": 1, "next tea": 1}


async def test_body_that_does_not_end_in_time_is_cancelled_and_runs_again_at_the_next_start(
    database: str, make_app: MakeApp
) -> None:
    async with make_app(database, grace=timedelta(milliseconds=50)) as app:
        await app.start(shutdown_work("tea"), id="tea")
        await begun.wait()
    assert bodies == {"begun tea": 1}
    assert await owned(database) == (0, 0)
    may_end.set()
    async with make_app(database) as app:
        handle = await app.get("tea")
        assert (await handle.info()).recoveries == 0
        assert await handle.result() == ["tea", "tea"]
    assert bodies == {"begun tea": 2, "ended tea": 1, "next tea": 1}


async def test_leaving_the_block_leaves_no_task_and_no_thread(make_app: MakeApp) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with make_app() as app:
        await app.start(shutdown_wait())
        await app.start(shutdown_work("tea"))
        assert len(await app.run(shutdown_many())) == 10
        await begun.wait()
        may_end.set()
    gc.collect()
    assert asyncio.all_tasks() == tasks
    assert set(threading.enumerate()) == threads


async def test_leaving_the_block_by_an_exception_leaves_nothing_either(database: str, make_app: MakeApp) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    may_end.set()

    async def fail() -> None:
        async with make_app(database) as app:
            await app.start(shutdown_wait())
            await app.start(shutdown_work("tea"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert asyncio.all_tasks() == tasks
    assert set(threading.enumerate()) == threads
    assert await owned(database) == (0, 0)


@pytest.mark.parametrize("cancels", [1, 3])
async def test_cancelling_the_task_that_leaves_the_block_leaves_nothing_either(
    database: str, make_app: MakeApp, cancels: int
) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    is_left = asyncio.Event()

    async def serve() -> None:
        async with make_app(database) as app:
            await app.start(shutdown_work("tea"), id="tea")
            await app.start(shutdown_wait())
            await begun.wait()
            is_left.set()

    serving = asyncio.create_task(serve())
    await is_left.wait()
    for _ in range(cancels):
        await asyncio.sleep(0.01)
        serving.cancel()
    asyncio.get_running_loop().call_later(0.05, may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert bodies == {"begun tea": 1, "ended tea": 1}
    assert asyncio.all_tasks() == tasks
    assert set(threading.enumerate()) == threads
    assert await owned(database) == (0, 0)


async def test_cancelling_the_task_inside_the_block_closes_the_app(database: str, make_app: MakeApp) -> None:
    async def serve() -> None:
        async with make_app(database) as app:
            await app.start(shutdown_work("tea"), id="tea")
            may_end.set()
            await asyncio.sleep(3600)

    serving = asyncio.create_task(serve())
    await begun.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert await owned(database) == (0, 0)


async def test_result_awaited_while_the_app_closes_ends(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(shutdown_wait())
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        with pytest.raises(NoAppError, match="closed"):
            await waiting


async def test_closed_app_refuses_work_and_can_be_opened_again(database: str, make_app: MakeApp) -> None:
    may_end.set()
    app = make_app(database)
    with pytest.raises(NoAppError):
        await app.start(shutdown_work("tea"))
    async with app:
        assert await app.run(shutdown_work("tea")) == ["tea", "tea"]
        with pytest.raises(RuntimeError, match="open already"):
            await app.__aenter__()
    with pytest.raises(NoAppError):
        await app.start(shutdown_work("tea"))
    async with app:
        assert await app.run(shutdown_work("tea")) == ["tea", "tea"]


@activity(retry=RetryPolicy(initial_interval=timedelta(milliseconds=10), jitter=0))
async def shutdown_fails() -> None:
    bodies["failed"] += 1
    raise ConnectionError("not now")


@workflow
async def shutdown_both() -> None:
    await asyncio.gather(shutdown_fails(), shutdown_body("slow"))


async def test_back_off_that_ends_while_the_app_is_left_does_not_keep_the_loop_busy(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    rang = Turns.rang

    def count(self: Turns, key: int) -> None:
        rung.append(key)
        rang(self, key)

    monkeypatch.setattr(Turns, "rang", count)
    app = make_app()
    async with app:
        await app.start(shutdown_both())
        await begun.wait()
        while bodies["failed"] == 0:
            await asyncio.sleep(0.001)
        leaving = asyncio.create_task(app.__aexit__(None, None, None))
        await asyncio.sleep(0.3)
        may_end.set()
        await leaving
    assert len(rung) < 20
