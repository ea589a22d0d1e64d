"""What must not be lost, or carried over, where a run changes its state."""

from __future__ import annotations

import asyncio
import contextvars
from datetime import timedelta

import pytest

from romancy import (
    App,
    Channel,
    RetryPolicy,
    WorkflowBlockedError,
    WorkflowTerminatedError,
    activity,
    recur,
    workflow,
)

pytestmark = pytest.mark.anyio

begun: list[str] = []
stopped: list[str] = []
gates: list[asyncio.Event] = []
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
letters = Channel("transition_letters", str)


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    begun.clear()
    stopped.clear()
    gates[:] = [asyncio.Event()]


@activity
async def transit_slowly(run: int) -> str:
    begun.append(f"slowly {run}")
    try:
        await asyncio.sleep(0.6)
    except asyncio.CancelledError:
        stopped.append(f"slowly {run}")
        raise
    return f"result of run {run}"


@workflow
async def transit_once(run: int) -> str:
    if run == 0:
        try:
            async with asyncio.timeout(0.2):
                return await transit_slowly(run)
        except TimeoutError:
            recur(transit_once(1))
    return await transit_slowly(run)


async def test_recur_leaves_an_activity_that_was_given_up_behind(hot_limit: int) -> None:
    async with App("sqlite://", workflows=[transit_once], hot_limit=hot_limit) as app:
        assert await app.run(transit_once(0), id="one") == "result of run 1"
        assert begun == ["slowly 0", "slowly 1"]
        assert stopped == ["slowly 0"]
        history = await (await app.get("one")).history()
        assert [event.payload for event in history] == ['"result of run 1"'] * 2


@activity(retry=RetryPolicy(initial_interval=0.5, jitter=0))
async def transit_failing(run: int) -> str:
    begun.append(f"failing {run}")
    if run == 0:
        raise ConnectionError("away")
    await asyncio.sleep(0.2)
    return f"result of run {run}"


@workflow
async def transit_in_backoff(run: int) -> str:
    if run == 0:
        try:
            async with asyncio.timeout(0.2):
                return await transit_failing(run)
        except TimeoutError:
            recur(transit_in_backoff(1))
    return await transit_failing(run)


async def test_recur_leaves_a_back_off_behind(hot_limit: int) -> None:
    async with App("sqlite://", workflows=[transit_in_backoff], hot_limit=hot_limit) as app:
        assert await app.run(transit_in_backoff(0)) == "result of run 1"
        assert begun == ["failing 0", "failing 1"]


@activity
async def transit_step(name: str) -> str:
    begun.append(name)
    if name == "b1":
        await gates[0].wait()
    return name


@workflow
async def transit_branches() -> list[str]:
    async def first() -> str:
        await transit_step("a1")
        return await transit_step("a2")

    return list(await asyncio.gather(first(), transit_step("b1")))


async def test_shutdown_keeps_an_activity_that_was_asked_for_meanwhile(database: str, hot_limit: int) -> None:
    async with App(database, workflows=[transit_branches], hot_limit=hot_limit) as app:
        await app.start(transit_branches(), id="one")
        while begun != ["a1", "b1", "a2"]:
            await asyncio.sleep(0.001)
            if "b1" in begun:
                break
        asyncio.get_running_loop().call_later(0.05, gates[0].set)
    async with App(database, workflows=[transit_branches], hot_limit=hot_limit) as app:
        assert await (await app.get("one")).result() == ["a2", "b1"]


@workflow
async def transit_two_timers() -> str:
    async with asyncio.timeout(0.1):
        await transit_step("quick")
    try:
        async with asyncio.timeout(0.2):
            return await transit_step("b1")
    except TimeoutError:
        return "in time"


async def test_timer_fires_while_a_body_runs_although_an_earlier_one_was_cancelled(hot_limit: int) -> None:
    async with App("sqlite://", workflows=[transit_two_timers], hot_limit=hot_limit) as app:
        assert await app.run(transit_two_timers()) == "in time"


@activity
async def transit_look() -> str:
    await asyncio.sleep(0)
    return request_id.get()


@workflow
async def transit_looks() -> list[str]:
    return [await transit_look() for _ in range(3)]


async def test_activities_see_nothing_of_the_request_that_started_them(hot_limit: int) -> None:
    async with App("sqlite://", workflows=[transit_looks], hot_limit=hot_limit) as app:

        async def handle(name: str) -> list[str]:
            request_id.set(name)
            return await app.run(transit_looks())

        assert await asyncio.gather(*(handle(f"request {n}") for n in range(3))) == [["none"] * 3] * 3


@activity
async def transit_endless() -> str:
    begun.append("endless")
    try:
        await asyncio.sleep(3600)
    finally:
        stopped.append("endless")
    return "never"


@workflow
async def transit_for_ever() -> str:
    return await transit_endless()


async def test_terminate_stops_what_runs(hot_limit: int) -> None:
    async with App("sqlite://", workflows=[transit_for_ever], hot_limit=hot_limit) as app:
        handle = await app.start(transit_for_ever())
        while not begun:
            await asyncio.sleep(0.001)
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminatedError, match="enough"):
            await handle.result()
        while not stopped:
            await asyncio.sleep(0.001)
        assert app.worker is not None
        assert app.worker.hot_count == 0


@workflow
async def transit_parked() -> str:
    await transit_step("b1")
    return await letters.receive()


async def test_hot_limit_keeps_as_many_as_it_says() -> None:
    async with App("sqlite://", workflows=[transit_parked], hot_limit=5) as app:
        for number in range(12):
            await app.start(transit_parked(), id=str(number))
        gates[0].set()
        assert app.worker is not None
        while len(begun) < 12 or app.worker.hot_count > 5:
            await asyncio.sleep(0.005)
        assert app.worker.hot_count == 5
        for number in range(12):
            await app.send(letters, f"letter {number}", to=str(number))
        for number in range(12):
            assert await (await app.get(str(number))).result() == f"letter {number}"


@activity
async def transit_cancelling_itself() -> str:
    begun.append("self")
    if len(begun) == 1:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)
    return "second attempt"


@workflow
async def transit_cancelled_from_within() -> str:
    return await transit_cancelling_itself()


async def test_activity_that_others_cancel_is_tried_again(hot_limit: int) -> None:
    retry = RetryPolicy(initial_interval=timedelta(milliseconds=1))
    async with App("sqlite://", workflows=[transit_cancelled_from_within], hot_limit=hot_limit, retry=retry) as app:
        assert await app.run(transit_cancelled_from_within()) == "second attempt"


@workflow
async def transit_broken() -> str:
    begun.append("broken")
    raise NameError("typo")


async def test_two_builds_do_not_hand_a_blocked_run_to_each_other_without_a_break(database: str) -> None:
    async with (
        App(database, workflows=[transit_broken], build="1") as one,
        App(database, workflows=[transit_broken], build="2"),
    ):
        handle = await one.start(transit_broken())
        with pytest.raises(WorkflowBlockedError):
            await handle.result()
        await asyncio.sleep(0.3)
        assert len(begun) <= 2
