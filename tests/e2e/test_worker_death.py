"""A worker that dies while a body runs: the next process claims the instance and finishes it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from romancy import Channel, WorkflowBlockedError, activity, activity_info, workflow
from romancy.core.definitions import Workflow
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import FaultyStorage, OffsetClock

pytestmark = pytest.mark.anyio

_DAY = 24 * 3600

letters = Channel("death_letters", str)
others = Channel("death_others", str)
keys: list[str] = []
begun = asyncio.Event()
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global begun, may_end
    begun, may_end = asyncio.Event(), asyncio.Event()
    keys.clear()


@activity
async def death_body() -> int:
    keys.append(activity_info().idempotency_key)
    begun.set()
    await may_end.wait()
    return activity_info().attempt


@workflow
async def death_alone() -> int:
    return await death_body()


@workflow
async def death_beside_a_timer() -> int:
    async with asyncio.timeout(3600):
        return await death_body()


@pytest.mark.parametrize("work", [death_alone, death_beside_a_timer], ids=lambda work: work.name)
async def test_instance_of_a_worker_that_died_in_a_body_is_finished_by_the_next(
    shared: Storage, clock: OffsetClock, make_app: MakeApp, work: Workflow[[], int]
) -> None:
    process = FaultyStorage(shared)
    async with make_app(process.storage, clock=clock, grace=timedelta(0)) as app:
        await app.start(work(), id="one")
        await begun.wait()
        process.died.set()
    row = await shared.get("one")
    assert row is not None
    assert row.session is not None
    assert row.wake_at is not None
    assert row.wake_at <= clock.now()
    clock.advance(60)
    may_end.set()
    async with make_app(FaultyStorage(shared).storage, clock=clock) as app:
        handle = await app.get("one")
        assert await handle.result() == 1
        assert (await handle.info()).recoveries == 0
    assert len(keys) == 2
    assert len(set(keys)) == 1


async def test_instance_is_taken_over_by_a_worker_that_runs_already(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    process = FaultyStorage(shared)
    ttl = timedelta(seconds=1)
    async with make_app(process.storage, clock=clock, grace=timedelta(0), session_ttl=ttl) as app:
        await app.start(death_alone(), id="one")
        await begun.wait()
        begun.clear()
        async with make_app(FaultyStorage(shared).storage, clock=clock, session_ttl=ttl) as other:
            process.died.set()
            await begun.wait()
            may_end.set()
            assert await (await other.get("one")).result() == 1
    assert len(keys) == 2


@workflow
async def death_asleep() -> str:
    """Wait for months, but for a letter."""
    try:
        async with asyncio.timeout(100 * _DAY):
            return await letters.receive()
    except TimeoutError:
        return "in vain"


async def asleep(storage: Storage, clock: OffsetClock) -> None:
    """Wait until the instance has nothing to do before its time has come."""
    while True:
        row = await storage.get("one")
        if row is not None and row.wake_at is not None and row.wake_at > clock.now():
            return
        await asyncio.sleep(0.005)


async def test_run_that_is_parked_for_months_outlives_any_number_of_owners(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    for number in range(10):
        process = FaultyStorage(shared)
        async with make_app(process.storage, clock=clock, grace=timedelta(0), max_recoveries=2) as app:
            await app.start(death_asleep(), id="one", on_conflict="attach")
            await asleep(shared, clock)
            # What it does not wait for wakes it all the same: it has an owner then, if it had none, who dies.
            await app.send(others, "psst", to="one", message_id=f"{number}")
            await asyncio.sleep(0.02)
            process.died.set()
        clock.advance(9 * _DAY)
    async with make_app(FaultyStorage(shared).storage, clock=clock, max_recoveries=2) as app:
        handle = await app.get("one")
        assert await handle.status() == "running"
        clock.advance(11 * _DAY)
        assert await handle.result() == "in vain"
        assert (await handle.info()).recoveries == 0


async def test_instance_whose_workers_die_again_and_again_is_blocked(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    for _ in range(3):
        process = FaultyStorage(shared)
        async with make_app(process.storage, clock=clock, grace=timedelta(0), max_recoveries=3) as app:
            await app.start(death_alone(), id="one", on_conflict="attach")
            await begun.wait()
            begun.clear()
            process.died.set()
        clock.advance(60)
    async with make_app(FaultyStorage(shared).storage, clock=clock, max_recoveries=3) as app:
        handle = await app.get("one")
        with pytest.raises(WorkflowBlockedError, match="3 times"):
            await handle.result()
        assert (await handle.info()).recoveries == 3
    assert len(keys) == 3
