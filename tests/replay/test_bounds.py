"""Workflow code that does not come back is stopped, and only its own run is blocked."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from romancy.replay.execution import Execution, Turn
from romancy.replay.loop import ReplayLoop
from romancy.worker.watchdog import Watchdog

from .scripting import T0, act, begin, completed, news


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    made = Watchdog(timedelta(seconds=0.02), timedelta(seconds=0.05))
    made.start()
    yield made
    made.stop()


def spin() -> None:
    while True:
        pass


async def plain() -> None:
    spin()


async def in_except_exception() -> None:
    while True:
        with contextlib.suppress(Exception):
            spin()


async def in_except_base_exception() -> None:
    for _ in range(3):
        with contextlib.suppress(BaseException):
            spin()
    await act("swallowed")


async def in_a_child() -> None:
    async def child() -> None:
        spin()

    await asyncio.gather(child(), child())


async def in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(spin)
    await news.receive()


async def in_finally() -> None:
    try:
        raise ValueError
    finally:
        spin()


async def harmless() -> str:
    await asyncio.sleep(0)
    return "done"


@pytest.mark.parametrize(
    "kind", [plain, in_except_exception, in_except_base_exception, in_a_child, in_a_callback, in_finally]
)
def test_endless_code_is_interrupted(kind: Any, watchdog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    async def flow() -> None:
        await act("a")
        await kind()

    async def host() -> Turn:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Turn] = loop.create_future()
        execution = begin(flow)

        def drive() -> None:
            execution.activate(stamp=T0, guard=watchdog)
            done.set_result(execution.activate([completed("1:a")], stamp=T0, guard=watchdog))

        loop.call_soon(drive)
        turn = await done
        loop.call_soon(execution.suspend, watchdog)
        other = begin(harmless)
        loop.call_soon(lambda: other.activate(stamp=T0, guard=watchdog))
        await asyncio.sleep(0.1)
        assert other.closing is not None
        assert await asyncio.gather(*(asyncio.sleep(0.01, number) for number in range(3))) == [0, 1, 2]
        return turn

    turn = asyncio.run(host())
    assert turn.blocked is not None
    assert turn.blocked.type == "romancy.replay.loop:TurnInterrupted"
    assert [note.activity_id for note in turn.notes] == ["1:a"]
    assert "spin" in watchdog.stack
    assert "held the event loop" in caplog.text


def test_eviction_that_does_not_come_back_is_interrupted(watchdog: Watchdog) -> None:
    async def flow() -> None:
        try:
            await act("a")
        finally:
            spin()

    execution = begin(flow)
    execution.activate(stamp=T0, guard=watchdog)
    loop = execution.loop
    execution.suspend(watchdog)
    assert asyncio.all_tasks(loop) == set()


def test_interrupt_never_strikes_after_the_turn() -> None:
    watchdog = Watchdog(timedelta(seconds=0.0004), timedelta(seconds=0.0005))
    watchdog.start()
    hits = 0

    async def flow() -> None:
        until = time.perf_counter() + 0.0005
        while time.perf_counter() < until:
            pass

    for _ in range(200):
        execution = begin(flow)
        turn = execution.activate(stamp=T0, guard=watchdog)
        hits += turn.blocked is not None
        execution.suspend()
    total = sum(range(100_000))
    watchdog.stop()
    assert total == 4_999_950_000
    assert asyncio._get_running_loop() is None
    assert hits < 200


async def with_sleep_zero() -> None:
    while True:
        await asyncio.sleep(0)


async def with_call_soon() -> None:
    loop = asyncio.get_running_loop()

    def again() -> None:
        loop.call_soon(again)

    again()
    await news.receive()


async def with_due_timers() -> None:
    while True:
        async with asyncio.timeout(5):
            await asyncio.sleep(-1)


async def with_two_tasks() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def put() -> None:
        while True:
            await queue.put(1)

    async def take() -> None:
        while True:
            await queue.get()

    await asyncio.gather(put(), take())


def limited(fn: Any, limit: int = 20_000) -> Execution:
    execution = begin(fn)
    execution.loop.callback_limit = limit
    return execution


@pytest.mark.parametrize("fn", [with_sleep_zero, with_call_soon, with_due_timers, with_two_tasks])
def test_spinning_run_is_blocked(fn: Any) -> None:
    execution = limited(fn)
    turn = execution.activate(stamp=T0)
    assert turn.blocked is not None
    assert "20,000 callbacks in one turn" in turn.blocked.message
    loop = execution.loop
    execution.suspend()
    assert asyncio.all_tasks(loop) == set()


def test_a_drain_may_run_a_million_callbacks() -> None:
    assert limited(harmless).loop.callback_limit == 20_000
    assert begin(harmless).loop.callback_limit == 1_000_000


def test_failed_callback_is_reported_and_the_run_goes_on() -> None:
    async def flow() -> str:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        return "done"

    execution = begin(flow)
    turn = execution.activate(stamp=T0)
    assert turn.closing is not None
    assert isinstance(execution.loop.reports[0]["exception"], ZeroDivisionError)


def test_interrupted_drain_lets_no_further_task_begin(watchdog: Watchdog) -> None:
    began: list[str] = []

    async def late() -> None:
        began.append("late")

    async def flow() -> None:
        task = asyncio.create_task(late())
        spin()
        await task

    execution = begin(flow)
    assert execution.activate(stamp=T0, guard=watchdog).blocked is not None
    execution.suspend(watchdog)
    assert began == []


def test_loop_is_left_after_every_turn() -> None:
    execution = begin(harmless)
    execution.activate(stamp=T0)
    assert asyncio._get_running_loop() is None
    assert isinstance(execution.loop, ReplayLoop)
    assert not execution.loop.is_running()
