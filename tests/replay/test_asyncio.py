"""Plain asyncio works in workflows: live, replayed and evicted at every turn alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from romancy.workflows.completion import as_completed

from .harness import Shell, check, check_replay
from .scripting import Message, Outcome, Plan, act, log, news, varied


def by_name(**seconds: float) -> Plan:
    """Let each activity take its own time, and return its name."""
    return lambda activity_id, name: Outcome(seconds[name], name)


def test_gather_keeps_its_order_whatever_ends_first() -> None:
    async def branch(first: str, second: str) -> tuple[Any, Any]:
        return await act(first), await act(second)

    async def flow() -> Any:
        return await asyncio.gather(branch("a", "b"), branch("c", "d"))

    for times in ({"a": 9, "b": 1, "c": 1, "d": 1}, {"a": 1, "b": 5, "c": 2, "d": 1}):
        assert check(flow, plan=by_name(**times)).result == [["a", "b"], ["c", "d"]]


def test_gather_returns_exceptions_when_asked() -> None:
    async def flow() -> list[str]:
        found = await asyncio.gather(act("good"), act("bad"), return_exceptions=True)
        return [type(item).__name__ for item in found]

    def plan(activity_id: str, name: str) -> Outcome:
        return Outcome(1, "ok") if name == "good" else Outcome(2, error=ValueError("bad"))

    live = Shell(flow, plan=plan).run()
    assert live.result == ["str", "ValueError"]
    check_replay(live)


def test_task_group() -> None:
    async def flow() -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(act(name)) for name in ("a", "b", "c")]
        return [task.result() for task in tasks]

    assert check(flow, plan=by_name(a=3, b=1, c=2)).result == ["a", "b", "c"]


def test_task_group_cancels_the_others_when_one_fails() -> None:
    async def slow() -> None:
        try:
            await act("slow")
        except asyncio.CancelledError:
            log("cancelled", await act("cleanup"))
            raise

    async def flow() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(slow())
                group.create_task(act("bad"))
        except ExceptionGroup as errors:
            return str(errors.exceptions[0])
        return "no"

    def plan(activity_id: str, name: str) -> Outcome:
        return Outcome(1, error=ValueError("bad")) if name == "bad" else Outcome(9 if name == "slow" else 1, name)

    shell = check(flow, plan=plan)
    assert shell.result == "bad"
    assert ("CancelActivity", "t1.1:slow") in shell.commands
    assert shell.trace[-1][1:] == ("cancelled", "cleanup")


@pytest.mark.parametrize(("limit", "expected"), [(2, "late"), (4, "slow")])
def test_time_limits(limit: float, expected: str) -> None:
    async def flow(limit: float) -> list[Any]:
        loop = asyncio.get_running_loop()
        found: list[Any] = []
        try:
            async with asyncio.timeout(limit):
                found.append(await act("slow"))
        except TimeoutError:
            found.append("late")
        try:
            async with asyncio.timeout_at(loop.time() + limit):
                found.append(await act("slow"))
        except TimeoutError:
            found.append("late")
        try:
            found.append(await asyncio.wait_for(act("slow"), limit))
        except TimeoutError:
            found.append("late")
        return found

    assert check(flow, limit, plan=by_name(slow=3)).result == [expected] * 3


def test_timeout_can_be_rescheduled() -> None:
    async def flow() -> str:
        try:
            async with asyncio.timeout(1) as limit:
                limit.reschedule(asyncio.get_running_loop().time() + 10)
                await act("five")
                limit.reschedule(asyncio.get_running_loop().time() + 1)
                await act("five")
        except TimeoutError:
            return "late"
        return "in time"

    assert check(flow, plan=by_name(five=5)).result == "late"


@pytest.mark.parametrize("until", [asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED])
def test_wait(until: str) -> None:
    async def flow(until: str) -> Any:
        tasks = [asyncio.create_task(act(f"a{number}"), name=f"a{number}") for number in range(9)]
        waits: list[list[str]] = []
        pending: set[Any] = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=until, timeout=2)
            waits.append([task.get_name() for task in done])
            log([task.get_name() for task in done], [task.get_name() for task in pending])
        for task in tasks:
            task.exception()
        return waits

    for seed in range(5):
        assert (
            len(
                [
                    name
                    for names in check(flow, until, plan=varied(seed), jitter=True, seed=seed).result
                    for name in names
                ]
            )
            == 9
        )


def test_as_completed_yields_what_ends_first() -> None:
    async def child(name: str) -> Any:
        return await act(name)

    async def flow() -> list[Any]:
        return [await one for one in as_completed([child("a"), act("b"), asyncio.create_task(child("c")), act("d")])]

    assert check(flow, plan=by_name(a=4, b=3, c=2, d=1)).result == ["d", "c", "b", "a"]


def test_as_completed_with_a_timeout() -> None:
    async def flow() -> list[Any]:
        got: list[Any] = []
        for one in as_completed([act("fast"), act("slow"), act("slower")], timeout=2):
            try:
                got.append(await one)
            except TimeoutError:
                got.append("late")
        return got

    assert check(flow, plan=by_name(fast=1, slow=8, slower=9)).result == ["fast", "late", "late"]


def test_asyncio_as_completed_over_tasks_and_calls() -> None:
    async def flow() -> list[Any]:
        over_calls = [await one for one in asyncio.as_completed([act(f"c{number}") for number in range(9)])]
        tasks = [asyncio.create_task(act(f"t{number}")) for number in range(9)]
        return over_calls + [await one for one in asyncio.as_completed(tasks)]

    def plan(activity_id: str, name: str) -> Outcome:
        return Outcome(9 - int(name[1:]), name)

    assert check(flow, plan=plan).result == [f"c{n}" for n in range(8, -1, -1)] + [f"t{n}" for n in range(8, -1, -1)]


def test_shielded_task_goes_on() -> None:
    async def flow() -> list[Any]:
        task = asyncio.create_task(act("long"))
        try:
            async with asyncio.timeout(1):
                return [await asyncio.shield(task)]
        except TimeoutError:
            return ["kept", await task]

    shell = check(flow, plan=by_name(long=5))
    assert shell.result == ["kept", "long"]
    assert shell.commands == [("RunActivity", "1:long")]


def test_event_lock_semaphore_condition_barrier() -> None:
    async def flow() -> list[Any]:
        event, lock, semaphore = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(2)
        condition, barrier = asyncio.Condition(), asyncio.Barrier(4)
        order: list[Any] = []

        async def work(number: int) -> None:
            await event.wait()
            async with lock:
                order.append(("lock", number, await act(f"l{number}")))
            async with semaphore:
                order.append(("semaphore", number, await act(f"s{number}")))
            async with condition:
                await condition.wait_for(lambda: len(order) >= 6)
                condition.notify_all()
            await barrier.wait()
            order.append(("met", number))

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(work(number))
            await asyncio.sleep(2)
            event.set()
            while len(order) < 6:
                await asyncio.sleep(1)
            async with condition:
                condition.notify_all()
            await barrier.wait()
        return order

    for seed in range(8):
        shell = check(flow, plan=varied(1), jitter=True, seed=seed)
        assert len(shell.result) == 9


def test_queue_between_tasks() -> None:
    async def flow() -> list[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

        async def produce(name: str) -> None:
            for _ in range(3):
                await queue.put(await act(name))

        async with asyncio.TaskGroup() as group:
            for name in ("p", "q"):
                group.create_task(produce(name))
            got: list[Any] = []
            for _ in range(6):
                got.append(await queue.get())
                log(got[-1])
        return got

    assert sorted(check(flow, plan=by_name(p=1, q=2)).result) == ["p", "p", "p", "q", "q", "q"]


def test_async_generators() -> None:
    async def pages() -> AsyncIterator[Any]:
        try:
            for number in range(3):
                yield await act(f"page{number}")
        finally:
            log("closed", await act("close"))

    async def flow() -> Any:
        return [page async for page in pages()]

    shell = check(flow)
    assert len(shell.result) == 3
    assert shell.ids[-1] == "4:close"


def test_cancelled_task_may_clean_up_durably() -> None:
    async def work() -> None:
        try:
            await act("long")
        finally:
            log("cleaned", await act("cleanup"))

    async def flow() -> str:
        task = asyncio.create_task(work())
        await asyncio.sleep(1)
        task.cancel("enough")
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "no"

    shell = check(flow, plan=by_name(long=9, cleanup=1))
    assert shell.result == "cancelled"
    assert shell.ids == ["t1.1:long", "t1.2:cleanup"]


def test_tasks_have_names_and_know_the_running_one() -> None:
    async def child() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def flow() -> list[str]:
        return [await child(), await asyncio.create_task(child()), await asyncio.create_task(child(), name="mine")]

    assert check(flow).result == ["root", "t1", "mine"]


def test_future_set_by_a_callback() -> None:
    async def flow() -> Any:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(2, future.set_result, "called")
        untracked: asyncio.Future[str] = asyncio.Future()
        loop.call_later(3, untracked.set_result, "too")
        return [await future, await untracked]

    assert check(flow).result == ["called", "too"]


def test_waiting_for_any_of_a_message_and_a_timer() -> None:
    async def flow() -> list[str]:
        order: list[str] = []
        receiving = asyncio.create_task(news.receive(), name="message")
        for _ in range(4):
            timer = asyncio.create_task(asyncio.sleep(2), name="timer")
            done, _ = await asyncio.wait({receiving, timer}, return_when=asyncio.FIRST_COMPLETED)
            order += [task.get_name() for task in done]
            if receiving.done():
                receiving = asyncio.create_task(news.receive(), name="message")
            timer.cancel()
        receiving.cancel()
        return order

    for seed in range(10):
        check(flow, messages=[Message(at, at) for at in (1, 2.5, 4, 9)], jitter=True, seed=seed)


def test_unretrieved_failure_of_a_task_is_reported() -> None:
    async def fails() -> None:
        raise ValueError("nobody looks")

    async def flow() -> None:
        asyncio.create_task(fails())  # noqa: RUF006 - forgotten on purpose
        await asyncio.sleep(1)

    shell = check(flow)
    assert any("never retrieved" in report["message"] for report in shell.reports)
