"""Cancels, their grace, time limits of instances, and unfinished tasks, end to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from romancy import (
    App,
    Channel,
    InstanceClosedError,
    WorkflowCancelledError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
    activity,
    recur,
    workflow,
)
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import Fault, OffsetClock, StorageProxy, insist
from .sweep import Scenario, act, events_of, outcome_of, sweep

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

signals = Channel("limit_signals", str)
done: list[str] = []


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    done.clear()


@activity
async def limit_work(name: str) -> str:
    done.append(name)
    return name


@activity
async def limit_hang(name: str) -> None:
    done.append(name)
    try:
        await asyncio.sleep(3600)
    finally:
        done.append(f"{name} is told to stop")


@activity
async def limit_reserve(item: str) -> str:
    done.append(f"reserve {item}")
    return item


@limit_reserve.compensation
async def limit_release(reservation: str, item: str) -> None:
    done.append(f"release {reservation}")


async def until(what: str) -> None:
    while what not in done:
        await asyncio.sleep(0.001)


# -- cancels -----------------------------------------------------------------------------------------------------


@workflow
async def limit_first() -> str:
    done.append("began")
    return await limit_work("work")


async def test_cancel_before_the_first_turn_ends_the_run_in_it(
    shared: Storage, clock: OffsetClock, hot_limit: int
) -> None:
    async with App(StorageProxy(shared).storage, clock=clock, worker=False) as client:
        handle = await client.start(limit_first(), id="early")
        await handle.cancel("changed my mind")
        await handle.cancel("again")
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        handle = await app.get("early")
        with pytest.raises(WorkflowCancelledError, match="changed my mind"):
            await handle.result()
        assert [event.kind for event in await handle.history()] == [
            "cancel_requested",
            "run_cancelled",
        ]
    assert done == ["began"]


@workflow
async def limit_loop() -> None:
    number = 0
    while True:
        number += 1
        await (limit_work if number < 3 else limit_hang)(f"turn {number}")


async def test_cancel_inside_a_loop_of_activities_ends_it(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(limit_loop())
        await until("turn 3")
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        await until("turn 3 is told to stop")
    assert done == ["turn 1", "turn 2", "turn 3", "turn 3 is told to stop"]


@workflow
async def limit_gather() -> str:
    shielded = asyncio.ensure_future(asyncio.sleep(0.5, "slept"))
    try:
        await asyncio.gather(asyncio.sleep(3600), asyncio.shield(shielded), limit_hang("hanging"))
    except asyncio.CancelledError:
        return await shielded
    return "not cancelled"


async def test_gather_is_cancelled_and_what_is_shielded_goes_on(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(limit_gather())
        await until("hanging")
        await handle.cancel()
        assert await handle.result() == "slept"
        kinds = [event.kind for event in await handle.history()]
    assert kinds == ["cancel_requested", "timer_fired", "run_completed"]


@workflow
async def limit_cleanup() -> str:
    heard: list[str] = []
    try:
        heard.append(await signals.receive())
    except asyncio.CancelledError:
        heard.append(await limit_work("cleanup"))
        heard.append(await signals.receive())
    return " ".join(heard)


async def test_caught_cancel_is_not_raised_again(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(limit_cleanup(), id="cleanup")
        await handle.cancel()
        await until("cleanup")
        await handle.cancel()
        await app.send(signals, "after all", to="cleanup")
        assert await handle.result() == "cleanup after all"


@workflow
async def limit_swept(item: str) -> None:
    await limit_swept_reserve(item)
    try:
        await signals.receive()
    finally:
        await limit_swept_note("cleanup")


@activity
async def limit_swept_reserve(item: str) -> str:
    act(f"reserve {item}")
    return item


@limit_swept_reserve.compensation
async def limit_swept_release(reservation: str, item: str) -> None:
    act(f"release {reservation}")


@activity
async def limit_swept_note(text: str) -> None:
    act(text)


async def cancel_once(app: App) -> Any:
    handle = await insist(lambda: app.start(limit_swept("tea"), id="swept", on_conflict="attach"))
    while not (await insist(handle.info)).events:
        await asyncio.sleep(0.001)
    with contextlib.suppress(InstanceClosedError):  # an earlier request was written, its acknowledgement lost
        await insist(lambda: handle.cancel("enough"))
    outcome = await outcome_of(handle)
    return outcome, [event for event in await events_of(handle) if event[0] != "cancel_requested"]


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_cancelled_run_ends_as_undisturbed_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([limit_swept], cancel_once), clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=8)


# -- grace -------------------------------------------------------------------------------------------------------


@workflow
async def limit_stubborn() -> None:
    await limit_reserve("tea")
    while True:
        try:
            await signals.receive()
        except asyncio.CancelledError:
            await limit_hang("stubborn")


async def test_run_that_does_not_end_within_the_grace_time_is_terminated(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(limit_stubborn())
        await until("reserve tea")
        await handle.cancel("enough", grace=0.05)
        with pytest.raises(WorkflowTerminatedError, match=r"enough.*grace time; not undone: 1:limit_reserve"):
            await handle.result()
        assert await handle.status() == "terminated"
        await until("stubborn is told to stop")
        assert [event.kind for event in await handle.history()][-3:] == [
            "cancel_requested",
            "timer_fired",
            "run_terminated",
        ]
    assert done == ["reserve tea", "stubborn", "stubborn is told to stop"]


@workflow
async def limit_waits_when_cancelled() -> None:
    try:
        await signals.receive()
    finally:
        await limit_work("cleanup")
        await signals.receive()


async def test_grace_goes_on_while_no_worker_runs(shared: Storage, clock: OffsetClock, hot_limit: int) -> None:
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        handle = await app.start(limit_waits_when_cancelled(), id="parked")
        await handle.cancel("enough", grace=timedelta(hours=1))
        await until("cleanup")
    clock.advance(3601)
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        handle = await app.get("parked")
        with pytest.raises(WorkflowTerminatedError, match="grace"):
            await handle.result()


async def test_negative_grace_is_refused_and_nothing_is_asked(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(limit_stubborn())
        with pytest.raises(ValueError, match="grace=-1"):
            await handle.cancel(grace=-1)
        await until("reserve tea")
        assert (await handle.info()).unread == 0
        await handle.terminate()


# -- time limits ---------------------------------------------------------------------------------------------------


@workflow
async def limit_slow() -> str:
    await limit_reserve("tea")
    try:
        await limit_hang("slow")
    finally:
        await limit_work("cleanup")
    return "too late"


async def test_instance_out_of_time_cleans_up_undoes_and_is_timed_out(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(limit_slow(), timeout=timedelta(seconds=0.5))
        with pytest.raises(WorkflowTimedOutError, match="time limit was reached"):
            await handle.result()
        assert await handle.status() == "timed_out"
        assert [event.kind for event in await handle.history()] == [
            "activity_completed",
            "time_limit_reached",
            "activity_completed",
            "compensation_started",
            "activity_completed",
            "run_timed_out",
        ]
    assert [each for each in done if "told" not in each] == ["reserve tea", "slow", "cleanup", "release tea"]


@workflow
async def limit_parked() -> str:
    return await signals.receive()


async def test_limit_reaches_an_instance_that_only_the_database_knows(
    shared: Storage, clock: OffsetClock, hot_limit: int
) -> None:
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        before = datetime.now(UTC)
        handle = await app.start(limit_parked(), id="parked", timeout=3600)
        deadline = (await handle.info()).deadline
        assert deadline is not None
        assert timedelta(seconds=3600) <= deadline - before < timedelta(seconds=3630)
        while (await handle.info()).wake_at != deadline:
            await asyncio.sleep(0.001)
    clock.advance(3601)
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        with pytest.raises(WorkflowTimedOutError):
            await (await app.get("parked")).result()


async def test_instance_that_nobody_served_in_time_is_timed_out_when_it_begins(
    shared: Storage, clock: OffsetClock, hot_limit: int
) -> None:
    async with App(StorageProxy(shared).storage, clock=clock, worker=False) as client:
        await client.start(limit_first(), id="late", timeout=60)
    clock.advance(61)
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        with pytest.raises(WorkflowTimedOutError):
            await (await app.get("late")).result()
    assert done == ["began"]


async def test_instance_that_ends_in_time_is_not_timed_out(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(limit_first()) == "work"
        handle = await app.start(limit_first(), timeout=3600)
        assert await handle.result() == "work"
        assert [event.kind for event in await handle.history()] == ["activity_completed", "run_completed"]


@workflow
async def limit_recurs(number: int) -> None:
    await limit_work(f"run {number}")
    if number == 3:
        await signals.receive()
    recur(limit_recurs(number + 1))


async def test_limit_counts_for_all_runs_of_an_instance(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(limit_recurs(1), timeout=0.2)
        with pytest.raises(WorkflowTimedOutError):
            await handle.result()
        assert (await handle.info()).run == 2
    assert done == ["run 1", "run 2", "run 3"]


@workflow
async def limit_clings(number: int) -> None:
    await limit_reserve(f"run {number}")
    try:
        await signals.receive()
    except asyncio.CancelledError:
        recur(limit_clings(number + 1))


async def test_instance_that_is_out_of_time_can_not_recur(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(limit_clings(1), timeout=0.1)
        with pytest.raises(WorkflowTimedOutError):
            await handle.result()
        assert (await handle.info()).run == 0
    assert done == ["reserve run 1", "release run 1"]


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), timedelta(0)])
async def test_limit_has_to_be_positive(make_app: MakeApp, timeout: Any) -> None:
    async with make_app() as app:
        with pytest.raises(ValueError, match="timeout"):
            await app.start(limit_first(), id="none", timeout=timeout)
        assert await app.list() == []


async def time_out_once(app: App, *, clock: OffsetClock) -> Any:
    handle = await insist(lambda: app.start(limit_swept("tea"), id="swept", on_conflict="attach", timeout=3600))
    while not (await insist(handle.info)).events:
        await asyncio.sleep(0.001)
    clock.advance(3600)  # its sessions expire too
    return (await outcome_of(handle)).partition(" at ")[0], [
        (kind, activity_id) for kind, activity_id, _ in await events_of(handle)
    ]


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_timed_out_run_ends_as_undisturbed_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([limit_swept], partial(time_out_once, clock=clock), timedelta(seconds=0.2))
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=8)


# -- unfinished tasks ------------------------------------------------------------------------------------------------


@workflow
async def limit_leaves_tasks() -> str:
    async def listens() -> None:
        await signals.receive(timeout=3600)

    async def tidies() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await limit_work("tidy")
            await asyncio.sleep(0.01)

    asyncio.create_task(listens(), name="ears")  # noqa: RUF006 - left over on purpose
    asyncio.create_task(tidies())  # noqa: RUF006
    await limit_work("work")
    return "done"


async def test_unfinished_tasks_are_cancelled_and_named_once(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_app() as app:
        handle = await app.start(limit_leaves_tasks(), id="leaves")
        assert await handle.result() == "done"
        events = [(event.kind, event.activity_id) for event in await handle.history()]
        info = await handle.info()
    assert events == [
        ("activity_completed", "1:limit_work"),
        ("activity_completed", "t2.1:limit_work"),
        ("timer_fired", "t2@2"),
        ("run_completed", None),
    ]
    assert (info.wake_at, info.waiting_on) == (None, [])
    (warning,) = [record for record in caplog.records if "unfinished tasks" in record.message]
    assert warning.levelno == logging.WARNING
    for part in ("'leaves'", "ears (limit_leaves_tasks.<locals>.listens)", "t2 (limit_leaves_tasks.<locals>.tidies)"):
        assert part.strip("'") in warning.message


async def test_unfinished_tasks_are_not_named_again_by_another_process(
    shared: Storage, clock: OffsetClock, hot_limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        await app.start(limit_leaves_long(), id="leaves")
        while not caplog.records:
            await asyncio.sleep(0.001)
    clock.advance(3600)
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        assert await (await app.get("leaves")).result() == "done"
    assert len([record for record in caplog.records if "unfinished tasks" in record.message]) == 1


@workflow
async def limit_leaves_long() -> str:
    async def tidies() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(600)

    asyncio.create_task(tidies())  # noqa: RUF006
    await asyncio.sleep(0)
    return "done"
