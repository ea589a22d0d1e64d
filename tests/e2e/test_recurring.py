"""Runs that follow each other under one id: what is kept of those that are over, and what may not be unfinished."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from romancy import App, Channel, InstanceClosedError, InstanceNotFoundError, activity, recur, sleep, workflow
from romancy.core.clock import ManualClock
from romancy.storage.sqlite import SqliteStorage
from romancy.worker.retention import prune

from .conftest import MakeApp
from .faults import Fault, OffsetClock, insist
from .sweep import Scenario, act, begin, events_of, outcome_of, sweep

pytestmark = pytest.mark.anyio

letters: Channel[str] = Channel("recurring.letters", str)


@activity(name="recurring_count")
async def count(number: int) -> int:
    return number


@workflow(name="recurring_rounds")
async def rounds(number: int, last: int) -> int:
    counted = await count(number)
    if number < last:
        recur(rounds(number + 1, last))
    return counted


async def test_runs_that_are_over_can_be_read(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(rounds(0, 3), id="rounds")
        assert await handle.result() == 3
        assert [(info.run, info.closed_at is None) for info in await handle.runs()] == [
            (3, True),
            (2, False),
            (1, False),
            (0, False),
        ]
        assert [info.run for info in await handle.runs(limit=2)] == [3, 2]
        for run in range(3):
            events = await handle.history(run=run)
            assert [(e.kind, e.payload) for e in events] == [
                ("activity_completed", f"{run}"),
                ("run_recurred", f'{{"number":{run + 1},"last":3}}'),
            ]
        assert await handle.history(run=3) == await handle.history()
        with pytest.raises(InstanceNotFoundError, match="no history is kept of run 4 of instance 'rounds'"):
            await handle.history(run=4)


async def test_history_of_runs_that_are_over_is_removed_after_its_time(make_app: MakeApp) -> None:
    clock = ManualClock(1_800_000_000_000_000)
    storage = SqliteStorage("sqlite://", clock=clock)
    month = timedelta(days=30)
    async with make_app(storage, clock=clock, worker=True) as app:
        handle = await app.start(rounds(0, 3), id="rounds")
        await handle.result()
        clock.advance(29 * 86_400)
        await prune(app.client.storage, month, month)
        assert len(await handle.runs()) == 4
        clock.advance(86_401)
        await prune(app.client.storage, month, month)
        assert [info.run for info in await handle.runs()] == [3]
        assert await handle.result() == 3  # the latest run is no archive
        with pytest.raises(InstanceNotFoundError, match="no history is kept of run 0"):
            await handle.history(run=0)


@workflow(name="recurring_task")
async def with_task(_: int) -> str:
    task = asyncio.ensure_future(sleep(60))
    await asyncio.sleep(0)
    try:
        recur(with_task(1))
    except RuntimeError as exc:
        task.cancel()
        return str(exc)


@workflow(name="recurring_activity")
async def with_activity(_: int) -> str:
    call = asyncio.ensure_future(count(7))
    await asyncio.sleep(0)
    try:
        recur(with_activity(1))
    except RuntimeError as exc:
        await call
        return str(exc)


async def test_recur_with_something_unfinished_names_it(make_app: MakeApp) -> None:
    async with make_app() as app:
        told = await app.run(with_task(0), id="one")
        assert "recur() of instance 'one' with unfinished work: task " in told
        told = await app.run(with_activity(0), id="two")
        assert "activity " in told
        assert "recurring_count" in told


@activity(name="recurring_effect")
async def effect(text: str) -> str:
    act(text)
    return text


@workflow(name="recurring_sweep")
async def sweep_rounds(number: int) -> list[str]:
    text = await effect(f"{number} {await letters.receive()}")
    if number < 2:
        recur(sweep_rounds(number + 1))
    return [text]


async def play_rounds(app: App) -> list[Any]:
    handle = await begin(app, lambda: sweep_rounds(0), "rounds")
    for text in ("a", "b", "c"):
        with suppress(InstanceClosedError):  # an earlier process may have come further than it could say
            await insist(partial(app.send, letters, text, to="rounds", message_id=text))
    outcome = await outcome_of(handle)
    runs = await insist(handle.runs)
    return [outcome, await events_of(handle), [info.run for info in runs]]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_unread_messages_go_with_the_next_run_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([sweep_rounds], play_rounds), clock, hot_limit, fault=fault, is_mortal=is_mortal)


async def test_instance_that_has_ended_is_purged_after_its_time(make_app: MakeApp) -> None:
    async with make_app(instance_retention=timedelta(seconds=1)) as app:
        handle = await app.start(rounds(0, 0), id="rounds")
        await handle.result()
        while [info.id for info in await app.list()]:
            await asyncio.sleep(0.05)
