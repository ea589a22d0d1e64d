"""Delayed starts and priorities."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from romancy import App, Channel, WorkflowCancelledError, activity, now, workflow
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import Fault, OffsetClock, StorageProxy, insist
from .sweep import Scenario, act, events_of, outcome_of, sweep

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

letters = Channel("start_letters", str)
order: list[str] = []
cleaned: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    order.clear()
    cleaned.clear()


@workflow
async def start_tells_time() -> datetime:
    return now()


@workflow
async def start_reads() -> str:
    return await letters.receive()


@workflow
async def start_cleans_up() -> str:
    try:
        return await letters.receive()
    finally:
        cleaned["up"] += 1


async def test_delayed_start_begins_at_its_time_and_not_before(make_app: MakeApp) -> None:
    async with make_app() as app:
        for options in ({"delay": 0.2}, {"delay": timedelta(seconds=0.2)}):
            due = datetime.now(UTC) + timedelta(seconds=0.2)
            handle = await app.start(start_tells_time(), **cast("Any", options))
            info = await handle.info()
            assert (info.status, info.is_owned, info.started_at) == ("pending", False, None)
            assert await handle.result(timeout=5) >= due - timedelta(seconds=0.02)
        due = datetime.now(UTC) + timedelta(seconds=0.2)
        handle = await app.start(start_tells_time(), start_at=due)
        assert (await handle.info()).wake_at == due
        assert await handle.result(timeout=5) >= due
        info = await handle.info()
        assert info.started_at is not None
        assert info.started_at >= due > info.created_at


async def test_time_limit_of_a_delayed_start_counts_from_its_time(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(start_tells_time(), delay=0.3, timeout=0.2)
        info = await handle.info()
        assert info.wake_at is not None
        assert info.deadline == info.wake_at + timedelta(seconds=0.2)
        assert await handle.result(timeout=5) >= info.wake_at


async def test_time_limit_that_no_calendar_has_is_refused(make_app: MakeApp) -> None:
    async with make_app() as app:
        due = datetime.max.replace(tzinfo=UTC)
        with pytest.raises(ValueError, match="before the year 10000"):
            await app.start(start_tells_time(), start_at=due, timeout=1)
        assert await app.list() == []


async def test_start_at_an_instant_that_has_passed_is_a_start_now(make_app: MakeApp) -> None:
    async with make_app() as app:
        before = datetime.now(UTC)
        for passed in (datetime(1960, 1, 1, tzinfo=UTC), before):
            handle = await app.start(start_tells_time(), start_at=passed)
            assert await handle.result(timeout=5) >= before
        assert await (await app.start(start_tells_time(), delay=0)).result(timeout=5) >= before


async def test_delayed_start_survives_restarts(database: str, make_app: MakeApp) -> None:
    async with make_app(database) as app:
        due = datetime.now(UTC) + timedelta(seconds=0.4)
        await app.start(start_tells_time(), id="one", start_at=due)
    async with make_app(database) as app:
        assert (await (await app.get("one")).info()).status == "pending"
    async with make_app(database) as app:
        assert await (await app.get("one")).result(timeout=5) >= due


async def test_message_before_the_time_waits_and_a_cancel_does_not(make_app: MakeApp) -> None:
    async with make_app() as app:
        reading = await app.start(start_reads(), delay=0.3)
        cleaning = await app.start(start_cleans_up(), delay=3600)
        await reading.send(letters, "early")
        await asyncio.sleep(0.05)
        assert [await handle.status() for handle in (reading, cleaning)] == ["pending", "pending"]
        await cleaning.cancel("not wanted")
        with pytest.raises(WorkflowCancelledError, match="not wanted"):
            await cleaning.result(timeout=5)
        assert cleaned["up"] == 1
        assert await reading.result(timeout=5) == "early"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"start_at": datetime(2030, 1, 1)}, "aware"),  # noqa: DTZ001 - what is refused
        ({"start_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 5}, "both"),
        ({"delay": -1}, "not negative"),
        ({"delay": timedelta(seconds=-1)}, "not negative"),
        ({"delay": float("nan")}, "not negative"),
        ({"delay": float("inf")}, "not negative"),
        ({"delay": timedelta.max}, "too long"),
        ({"priority": 3}, "-2 to 2"),
        ({"priority": -3}, "-2 to 2"),
        ({"priority": True}, "-2 to 2"),
        ({"priority": 1.0}, "-2 to 2"),
    ],
)
async def test_option_that_makes_no_sense_is_refused_and_nothing_is_written(
    options: dict[str, Any], reason: str
) -> None:
    async with App("sqlite://", worker=False) as app:
        with pytest.raises(ValueError, match=reason):
            await app.start(start_reads(), id="one", **options)
        assert not await app.list()


@workflow
async def start_notes(name: str) -> None:
    order.append(name)
    await letters.receive()


async def test_higher_priority_is_claimed_first(shared: Storage, clock: OffsetClock, make_app: MakeApp) -> None:
    async with make_app(StorageProxy(shared).storage, worker=False, clock=clock) as client:
        for name, priority in (("a", 0), ("b", -2), ("c", 2), ("d", 1), ("e", 2), ("f", -1), ("g", 0)):
            handle = await client.start(start_notes(name), id=name, priority=priority)
            assert (await handle.info()).priority == priority
    async with make_app(StorageProxy(shared).storage, clock=clock, max_activities=1, hot_limit=0):
        while len(order) < 7:
            await asyncio.sleep(0.001)
    assert order == ["c", "e", "d", "a", "g", "f", "b"]


@activity
async def start_step(name: str) -> str:
    act(name)
    return name


@workflow
async def start_swept() -> str:
    await start_step("one")
    return await letters.receive()


async def play_delayed(app: App) -> tuple[str, list[Any], int, dict[str, str]]:
    handle = await insist(
        lambda: app.start(
            start_swept(), id="one", delay=0.05, priority=2, tags={"customer": "42"}, on_conflict="attach"
        )
    )
    began = await insist(handle.info)
    await insist(lambda: app.send(letters, "early", to="one", message_id="early"))
    outcome = await outcome_of(handle)
    info = await insist(handle.info)
    assert info.started_at is not None
    if began.status == "pending":  # the delay counts from the call, so the row alone says when it is over
        assert began.wake_at is not None
        assert info.started_at >= began.wake_at
    return outcome, await events_of(handle), info.priority, info.tags


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_delayed_start_is_as_undisturbed_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([start_swept], play_delayed), clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=8)
