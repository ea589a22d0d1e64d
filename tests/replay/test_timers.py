"""`call_later` and all that is built on it are durable timers, due at the same instants at every replay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from romancy import now, sleep, sleep_until
from romancy.core.events import EventKind, TimerFired

from .harness import check
from .scripting import SECOND, T0, Message, act, after, begin, completed, log, message, news


def fired(shell: Any) -> list[str]:
    return [event.activity_id for event in shell.events if event.kind == EventKind.TIMER_FIRED]


def test_sleep_takes_its_time() -> None:
    async def flow() -> float:
        start = now()
        await asyncio.sleep(30 * 86400)
        await sleep(timedelta(minutes=1))
        await sleep(0.5)
        return (now() - start).total_seconds()

    assert check(flow).result == 30 * 86400 + 60.5


def test_sleep_until_an_instant() -> None:
    async def flow() -> Any:
        await sleep_until(datetime(2024, 1, 1, tzinfo=UTC))
        await sleep_until(datetime(2020, 1, 1, tzinfo=UTC))  # it has passed
        return now()

    assert check(flow).result == "2024-01-01T00:00:00Z"


def test_sleep_until_refuses_a_naive_datetime() -> None:
    async def flow() -> str:
        with pytest.raises(ValueError, match="aware"):
            await sleep_until(datetime(2024, 1, 1))  # noqa: DTZ001 - what is refused
        return "refused"

    assert check(flow).result == "refused"


def test_equal_deadlines_fire_in_the_order_of_creation() -> None:
    async def flow() -> list[int]:
        order: list[int] = []

        async def wake(number: int) -> None:
            await asyncio.sleep(5)
            order.append(number)
            log(number)

        await asyncio.gather(*(wake(number) for number in range(12)))
        return order

    shell = check(flow)
    assert shell.result == list(range(12))
    assert len(shell.turns) == 2
    assert fired(shell) == [f"t{number}@1" for number in range(1, 13)]


def test_timers_fire_by_deadline() -> None:
    async def flow() -> list[float]:
        order: list[float] = []

        async def wake(delay: float) -> None:
            await asyncio.sleep(delay)
            order.append(delay)

        await asyncio.gather(*(wake(delay) for delay in (3, 1, 2, 0.5, 2.5)))
        return order

    assert check(flow).result == [0.5, 1, 2, 2.5, 3]


@pytest.mark.parametrize("delay", [1e-7, 1e-6, 0.1, 0.3, 1 / 3, 1 / 7, 123.456789, 1e7 + 0.1])
def test_timer_never_fires_before_its_float_time(delay: float) -> None:
    async def flow(delay: float) -> list[float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.sleep(delay)
        return [start + delay, loop.time()]

    due, at = check(flow, delay).result
    assert due <= at <= due + 2e-6


def test_anyio_does_not_set_its_timer_again() -> None:
    async def flow() -> bool:
        with anyio.move_on_after(1 / 7) as scope:
            await news.receive()
        return scope.cancelled_caught

    shell = check(flow)
    assert shell.result is True
    assert len(fired(shell)) == 1


def test_timer_that_is_already_due_is_a_callback() -> None:
    async def flow() -> list[int]:
        order: list[int] = []
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() - 5, order.append, 1)
        loop.call_later(0, order.append, 2)
        loop.call_soon(order.append, 3)
        async with asyncio.timeout(100):
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await act("never")
        return order

    shell = check(flow)
    assert shell.result == [1, 2, 3]
    assert len(shell.turns) == 1
    assert shell.commands == []


def test_time_stands_still_in_a_turn_and_never_goes_back() -> None:
    async def flow() -> float:
        start = asyncio.get_running_loop().time()
        await act("a")
        return asyncio.get_running_loop().time() - start

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([completed("1:a")], stamp=T0 - 50 * SECOND)
    assert turn.stamp == T0
    assert turn.closing is not None
    assert turn.closing.note.payload == b"0.0"


def test_stamp_of_a_turn_in_which_nothing_happened_is_forgotten() -> None:
    async def flow() -> None:
        await act("a")

    execution = begin(flow)
    execution.activate(stamp=T0)
    execution.activate([message("nobody waits")], stamp=T0 + 9 * SECOND)
    assert execution.activate([completed("1:a")], stamp=T0 + SECOND).stamp == T0 + SECOND


def test_timer_cancelled_by_an_earlier_release_of_the_batch_does_not_fire() -> None:
    async def flow() -> str:
        try:
            async with asyncio.timeout(5):
                await act("a")
        except TimeoutError:
            return "late"
        return "in time"

    execution = begin(flow)
    execution.activate(stamp=T0)
    ((deadline, timer_id),) = execution.timers.due(T0 + 5 * SECOND)
    turn = execution.activate([completed("1:a"), TimerFired(timer_id)], stamp=deadline)
    assert [note.kind for note in turn.notes] == [EventKind.ACTIVITY_COMPLETED, EventKind.RUN_COMPLETED]


def test_result_behind_the_timer_in_a_batch_comes_too_late() -> None:
    async def flow() -> str:
        try:
            async with asyncio.timeout(5):
                await act("a")
        except TimeoutError:
            return "late"
        return "in time"

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([TimerFired("@1"), completed("1:a")], stamp=T0 + 5 * SECOND)
    assert turn.closing is not None
    assert turn.closing.note.payload == b'"late"'


def test_timer_under_wait_for_is_cancelled_when_it_is_not_needed() -> None:
    async def flow() -> None:
        for _ in range(3):
            await asyncio.wait_for(act("a"), 60)
        await asyncio.sleep(1)

    assert len(fired(check(flow))) == 1


def test_cancelled_timers_do_not_pile_up() -> None:
    async def flow() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(1_000):
            loop.call_later(1e6, print).cancel()
        await asyncio.sleep(1)

    execution = begin(flow)
    execution.activate(stamp=T0)
    assert len(execution.timers) == 1
    assert len(execution.timers._heap) < 200
    assert execution.timers.due(T0 + SECOND) == [(T0 + SECOND, "@1001")]
    execution.suspend()


def test_due_lists_many_timers_in_order() -> None:
    async def flow() -> None:
        delays = [(number * 7919) % 101 for number in range(200)]
        await asyncio.gather(*(asyncio.sleep(1 + delay) for delay in delays))

    execution = begin(flow)
    execution.activate(stamp=T0)
    due = execution.timers.due(T0 + 50 * SECOND)
    assert [deadline for deadline, _ in due] == sorted(deadline for deadline, _ in due)
    assert len(due) == sum((number * 7919) % 101 < 50 for number in range(200))
    execution.suspend()


def test_timers_agree_with_messages_and_results_under_jitter() -> None:
    async def flow() -> list[Any]:
        got: list[Any] = []
        for number in range(6):
            try:
                async with asyncio.timeout(1.5):
                    got.append(await (news.receive() if number % 2 else act("a")))
            except TimeoutError:
                got.append("late")
            log(number, got[-1])
        return got

    for seed in range(20):
        check(flow, plan=after(1), messages=[Message(at / 2, at) for at in range(9)], jitter=True, seed=seed)
