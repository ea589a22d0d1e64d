"""Saga blocks whose tasks go on while they are undone."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from romancy import saga
from romancy.core.events import EventKind
from romancy.core.records import Status

from .harness import Shell, check
from .scripting import Outcome, Plan, act, undoable


def fail(exc: Exception) -> NoReturn:
    raise exc


def lasting(**seconds: float) -> Plan:
    """Let each activity take its time, one second by default."""
    return lambda activity_id, name: Outcome(seconds.get(name, 1), name)


def names(shell: Shell) -> list[str]:
    return [activity_id.partition(":")[2] for activity_id in shell.ids]


async def steps(*what: str) -> None:
    for each in what:
        await undoable(each)


async def fail_after(seconds: float) -> None:
    await asyncio.sleep(seconds)
    fail(ValueError("no paper"))


async def tick_forever() -> None:
    while True:
        await undoable("tick")


@pytest.mark.parametrize("length", [1, 50])
def test_task_that_goes_on_is_undone_however_long_it_takes(length: float) -> None:
    async def flow() -> str:
        try:
            async with saga():
                await asyncio.gather(steps("one", "two", "three"), fail_after(0.5))
        except ValueError:
            await act("after")
        return "done"

    shell = check(flow, plan=lasting(two=length, undo_one=10, undo_two=10))
    assert names(shell) == ["one", "two", "three", "undo_three", "undo_two", "undo_one", "after"]


def test_work_behind_layers_of_asyncio_is_undone_in_its_place() -> None:
    async def nested() -> None:
        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            await asyncio.wait_for(asyncio.shield(group.create_task(steps("one"))), 50)
        await asyncio.gather(asyncio.create_task(steps("two")))

    async def flow() -> str:
        try:
            async with saga():
                await asyncio.gather(nested(), fail_after(0.5))
        except ValueError:
            return "done"
        return "not reached"

    assert names(check(flow)) == ["one", "two", "undo_two", "undo_one"]


def test_block_waits_for_a_block_in_it_that_is_being_undone() -> None:
    async def inner() -> None:
        async with saga():
            await undoable("inner")
            fail(KeyError())

    async def flow() -> str:
        try:
            async with saga():
                await undoable("outer")
                await asyncio.gather(asyncio.wait([asyncio.ensure_future(inner())]), fail_after(1.5))
        except ValueError:
            await act("after")
        return "done"

    shell = check(flow, plan=lasting(undo_inner=50))
    assert names(shell) == ["outer", "inner", "undo_inner", "undo_outer", "after"]
    ended = [event.activity_id or "" for event in shell.events if event.kind == EventKind.ACTIVITY_COMPLETED]
    assert [activity_id.partition(":")[2] for activity_id in ended] == names(shell)


def test_call_that_is_withdrawn_while_a_block_waits_for_it_keeps_nobody_waiting() -> None:
    """It is asked for and cancelled in one turn: no outcome will ever come."""

    async def cancel_soon(task: asyncio.Task[None]) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()

    async def flow() -> str:
        canceller: asyncio.Task[None] | None = None
        try:
            async with saga():
                await undoable("one")
                task = asyncio.create_task(steps("two"))
                canceller = asyncio.create_task(cancel_soon(task))
                await asyncio.sleep(0)
                fail(ValueError())
        except ValueError:
            assert canceller is not None
            await canceller
        return "done"

    shell = check(flow)
    assert names(shell) == ["one", "undo_one"]
    assert shell.result == "done"


@pytest.mark.parametrize("is_failing", [True, False], ids=["while-undone", "cancelled-in-it"])
def test_cancel_ends_a_block_whose_task_never_ends(is_failing: bool) -> None:
    async def flow() -> None:
        async with saga():
            ticking = asyncio.create_task(tick_forever())
            await asyncio.sleep(1.5 if is_failing else 100)
            fail(ValueError(str(ticking)))

    shell = check(flow, cancel_at=5, plan=lasting(undo_tick=2.5), turn_limit=200)
    assert shell.status is Status.CANCELLED
    assert names(shell).count("tick") == names(shell).count("undo_tick") > 4


def test_time_limit_ends_a_block_whose_task_never_ends() -> None:
    async def flow() -> None:
        async with saga():
            ticking = asyncio.create_task(tick_forever())
            await asyncio.sleep(1.5)
            fail(ValueError(str(ticking)))

    shell = check(flow, time_limit=5, turn_limit=200)
    assert shell.status is Status.TIMED_OUT
    assert names(shell).count("tick") == names(shell).count("undo_tick") > 4


def test_timeout_around_a_block_leaves_what_its_tasks_do_later_to_the_run() -> None:
    async def flow() -> None:
        ticking: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(5), saga():
                ticking = asyncio.create_task(tick_forever())
                await asyncio.sleep(100)
        except TimeoutError:
            await act("after")
            assert ticking is not None
            ticking.cancel()
            fail(ValueError("given up"))

    shell = check(flow)
    order = names(shell)
    assert order.index("undo_tick") < order.index("after") < len(order) - 1 - order[::-1].index("undo_tick")
    assert order.count("tick") == order.count("undo_tick")
