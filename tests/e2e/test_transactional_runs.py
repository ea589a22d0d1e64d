"""Transactional activities of runs that are paused, shut down, lost, or finished from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from romancy import (
    Connection,
    Handle,
    activity,
    complete_later,
    connection,
    workflow,
)
from romancy.storage.protocol import Storage
from romancy.worker.hot import HotRun

from .conftest import MakeApp
from .faults import OffsetClock, StorageProxy
from .transactional import (
    AT_ONCE,
    bodies,
    forget,
    look,
    rows,
    starts,
    tx_prepare,
    tx_work,
    work,
    write,
)

pytestmark = pytest.mark.anyio

_SOON = timedelta(milliseconds=20)

begun = asyncio.Event()
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world(request: pytest.FixtureRequest) -> None:
    global begun, may_end
    begun, may_end = asyncio.Event(), asyncio.Event()
    forget(request)


@pytest.mark.parametrize("back_end", ["sqlite"], indirect=True)  # PostgreSQL lets others' commits be seen in between
async def test_bodies_of_many_runs_write_all_their_rows(make_app: MakeApp) -> None:
    def body_of(text: str) -> Callable[[Connection], Awaitable[str]]:
        async def body(db: Connection) -> str:
            before = (await db.fetch_all("SELECT count(*) FROM tx"))[0][0]
            await asyncio.sleep(0)
            await write(db, text)
            after = (await db.fetch_all("SELECT count(*) FROM tx"))[0][0]
            return text if after == before + 1 else "others interfere"

        return body

    texts = [f"{run}/{number}" for run in range(15) for number in range(3)]
    bodies.update({text: body_of(text) for text in texts})
    async with make_app() as app:
        done = await asyncio.gather(*(work(app, *texts[3 * run : 3 * run + 3]) for run in range(15)))
        assert [text for texts in done for text in texts] == texts
        assert await rows(app) == sorted(texts)
        assert set(starts.values()) == {1}


async def test_session_that_is_lost_meanwhile_commits_nothing(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        if starts["tea"] == 1:
            clock.advance(60)  # as if this process had been stopped for a minute
        return "done"

    bodies["tea"] = body
    async with make_app(StorageProxy(shared).storage, clock=clock, poll_interval=_SOON) as app:
        working = asyncio.create_task(work(app, "tea"))
        while not working.done():
            await shared.reap_sessions()
            await asyncio.sleep(0.005)
        assert await working == ["done"]
        assert starts["tea"] == 2
        assert await rows(app) == ["tea"]


async def test_shutdown_rolls_back_what_does_not_end_in_time(make_app: MakeApp, database: str) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        if starts["tea"] == 1:
            begun.set()
            await asyncio.Event().wait()
        return "done"

    bodies["tea"] = body
    async with make_app(database, grace=timedelta(0)) as app:
        await app.start(tx_work(["tea"]), id="tea")
        await begun.wait()
    assert await look(database) == ([], 0)
    async with make_app(database) as app:
        handle: Handle[Any] = await app.get("tea")
        assert await handle.result() == ["done"]
    assert await look(database) == (["tea"], 1)


async def test_shutdown_waits_for_what_ends_in_time(make_app: MakeApp, database: str) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        begun.set()
        await asyncio.sleep(0.05)
        return "done"

    bodies["tea"] = body
    async with make_app(database) as app:
        await app.start(tx_work(["tea"]))
        await begun.wait()
    assert await look(database) == (["tea"], 1)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.002)


async def stands_still(run: HotRun, *, is_paused: bool) -> bool:
    """Tell whether the worker knows that a run is paused, or that it is not."""
    return run.is_paused is is_paused


async def test_bodies_of_a_paused_run_commit_and_are_not_repeated(make_app: MakeApp) -> None:
    async def first(db: Connection) -> str:
        begun.set()
        await may_end.wait()
        await write(db, "first")
        return "1"

    async def second(db: Connection) -> str:
        await may_end.wait()
        await write(db, "second")
        return "2"

    bodies.update(first=first, second=second)
    async with make_app(poll_interval=_SOON) as app:
        handle = await app.start(tx_work(["first", "second"]))
        await begun.wait()
        await handle.pause()
        may_end.set()

        async def is_freed() -> bool:
            return not (await handle.info()).is_owned

        await until(is_freed)
        assert [event.kind for event in await handle.history()] == ["activity_completed"] * 3
        assert await handle.status() == "paused"
        await handle.unpause()
        assert await handle.result() == ["1", "2"]
        assert await rows(app) == ["first", "second"]
        assert starts == {"first": 1, "second": 1}


async def test_unpaused_run_does_not_repeat_what_has_committed_meanwhile(make_app: MakeApp) -> None:
    def body_of(text: str) -> Callable[[Connection], Awaitable[str]]:
        async def body(db: Connection) -> str:
            begun.set()
            await may_end.wait()
            await write(db, text)
            return text

        return body

    slow_may_end = asyncio.Event()

    async def slow(_: Connection) -> str:
        await slow_may_end.wait()
        return "slow"

    bodies.update(first=body_of("first"), second=body_of("second"), slow=slow)
    async with make_app(poll_interval=_SOON) as app:
        handle = await app.start(tx_work(["first", "second", "slow"]))
        await begun.wait()
        await handle.pause()
        worker = app.worker
        assert worker is not None
        (run,) = worker._hot
        await until(lambda: stands_still(run, is_paused=True))
        may_end.set()

        async def are_recorded() -> bool:
            return len(await handle.history()) == 3

        await until(are_recorded)
        await handle.unpause()
        await until(lambda: stands_still(run, is_paused=False))
        slow_may_end.set()
        assert await handle.result() == ["first", "second", "slow"]
        assert starts == {"first": 1, "second": 1, "slow": 1}
        assert await rows(app) == ["first", "second"]


@activity(transactional=True, retry=AT_ONCE)
async def tx_hand_over() -> str:
    starts["hand over"] += 1
    await write(connection(), complete_later())
    return "nobody reads it"


@workflow
async def tx_outside() -> str:
    await tx_prepare()
    return await tx_hand_over()


async def test_token_is_committed_with_the_hand_over(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(tx_outside())

        async def is_handed_over() -> bool:
            return "activity_handed_over" in [event.kind for event in await handle.history()]

        await until(is_handed_over)
        (token,) = await rows(app)
        await app.complete_activity(token, "signed")
        assert await handle.result() == "signed"
        assert starts["hand over"] == 1


async def test_activity_finished_from_outside_before_it_returns_writes_nothing(make_app: MakeApp) -> None:
    tokens: list[str] = []

    async def body(db: Connection) -> None:
        tokens.append(complete_later())
        begun.set()
        await may_end.wait()
        await write(db, "late")

    bodies["tea"] = body
    async with make_app(poll_interval=_SOON) as app:
        handle = await app.start(tx_work(["tea"]))
        await begun.wait()
        await app.complete_activity(tokens[0], "signed")
        assert await handle.result() == ["signed"]
        may_end.set()
        assert await rows(app) == []
