"""What asyncio code may count on: timers that are due at once, and what tasks share."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from romancy import App, activity, now, sleep, sleep_until, workflow

from .conftest import MakeApp
from .faults import Fault, OffsetClock
from .sweep import Scenario, act, begin, events_of, outcome_of, sweep

pytestmark = pytest.mark.anyio


@activity(name="plain_step")
async def step(number: int) -> int:
    act(f"step {number}")
    return number


@workflow(name="plain_past")
async def past() -> list[Any]:
    """Sleep for no time in every way, between activities whose ids must not move."""
    began = now()
    await sleep_until(datetime(2000, 1, 1, tzinfo=UTC))
    await sleep(0)
    await sleep(-5)
    await sleep(timedelta(seconds=-1))
    await asyncio.sleep(0)
    await asyncio.sleep(-1)
    await step(1)
    await sleep_until(began)
    return [now() - began < timedelta(seconds=5), await step(2)]


async def test_sleeps_that_are_over_take_no_time_and_no_id(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(past(), id="one")
        assert await handle.result() == [True, 2]
        recorded = [(e.kind, e.activity_id) for e in await handle.history()]
    assert recorded == [
        ("activity_completed", "1:plain_step"),
        ("activity_completed", "2:plain_step"),
        ("run_completed", None),
    ]


@workflow(name="plain_shared")
async def shared_between_tasks() -> dict[str, Any]:
    """Eight tasks go through a semaphore and a lock into a queue, and every one of them waits durably meanwhile."""
    semaphore, lock, queue = asyncio.Semaphore(3), asyncio.Lock(), asyncio.Queue[int](maxsize=2)
    inside = most = total = 0

    async def produce(number: int) -> None:
        nonlocal inside, most, total
        async with semaphore:
            inside += 1
            most = max(most, inside)
            await step(number)
            inside -= 1
        async with lock:
            read = total
            await sleep(0.001)
            total = read + number
        await queue.put(number)

    async def consume() -> list[int]:
        taken: list[int] = []
        while len(taken) < 8:
            taken.append(await queue.get())
            await sleep(0.001)
            queue.task_done()
        return taken

    async with asyncio.TaskGroup() as group:
        consuming = group.create_task(consume())
        for number in range(8):
            group.create_task(produce(number))
    await queue.join()
    return {
        "most": most,
        "inside": inside,
        "total": total,
        "taken": sorted(consuming.result()),
        "left": [semaphore._value, lock.locked(), queue.qsize()],
    }


EXACT = {"most": 3, "inside": 0, "total": 28, "taken": list(range(8)), "left": [3, False, 0]}


async def test_locks_semaphores_and_queues_count_exactly(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(shared_between_tasks()) == EXACT


async def play_shared(app: App) -> list[Any]:
    handle = await begin(app, shared_between_tasks, "one")
    outcome = await outcome_of(handle)
    assert outcome == repr(EXACT)
    return [outcome, [event for event in await events_of(handle) if event[0] == "activity_completed"]]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_counts_are_exact_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([shared_between_tasks], play_shared), clock, hot_limit, fault=fault, is_mortal=is_mortal)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_sleeps_that_are_over_agree_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault
) -> None:
    async def play(app: App) -> list[Any]:
        handle = await begin(app, past, "one")
        await outcome_of(handle)
        return await events_of(handle)

    scenario = Scenario([past], play)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=False, at_least=5)
