"""Activity ids are taken where a call is made, and nothing around it changes them."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import anyio
import pytest

from romancy import activity
from romancy.errors import NotInWorkflowError

from .harness import Shell, check
from .scripting import T0, Outcome, act, after, begin


def test_ids_count_through_wait_for() -> None:
    async def flow() -> Any:
        await act("reserve")
        await asyncio.wait_for(act("charge"), 5)
        return await act("ship")

    assert check(flow).ids == ["1:reserve", "2:charge", "3:ship"]


def test_ids_inside_wait_for_are_the_callers() -> None:
    async def both() -> None:
        await act("a")
        await act("b")

    async def flow() -> None:
        await act("x")
        await asyncio.wait_for(both(), 9)
        await act("y")

    assert check(flow).ids == ["1:x", "2:a", "3:b", "4:y"]


def test_ids_are_not_changed_by_what_wraps_a_call() -> None:
    async def flow() -> None:
        await asyncio.gather(
            act("a"), asyncio.shield(act("b")), asyncio.create_task(act("c")), asyncio.wait_for(act("d"), 9)
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(act("e"))
        async with asyncio.timeout(7):
            await act("f")
        with anyio.fail_after(7):
            await act("g")

    assert sorted(check(flow).ids) == ["1:a", "2:b", "3:c", "4:d", "5:e", "6:f", "7:g"]


def test_ids_of_child_tasks_are_their_spawn_path() -> None:
    async def leaf(name: str) -> None:
        await act(name)

    async def branch() -> None:
        await act("own")
        await asyncio.gather(leaf("left"), leaf("right"))

    async def flow() -> None:
        await asyncio.create_task(leaf("first"))
        async with asyncio.TaskGroup() as group:
            group.create_task(branch())
        await act("last")

    assert sorted(check(flow).ids) == ["1:last", "t1.1:first", "t2.1.1:left", "t2.1:own", "t2.2.1:right"]


def test_equal_calls_are_two_operations() -> None:
    async def flow() -> Any:
        return await asyncio.gather(act("charge", 5), act("charge", 5))

    shell = check(flow)
    assert shell.ids == ["1:charge", "2:charge"]
    assert shell.result == ["1:charge!", "2:charge!"]


def test_call_has_its_id_before_it_is_awaited() -> None:
    async def flow() -> None:
        late, early = act("late"), act("early")
        await early
        await late

    assert check(flow).ids == ["2:early", "1:late"]


def test_callback_has_the_scope_of_the_task_that_registered_it() -> None:
    ids: list[str] = []

    def call_back(name: str) -> None:
        call = act(name)
        ids.append(call.activity_id)
        call.close()

    async def child() -> None:
        asyncio.get_running_loop().call_soon(call_back, "child")
        await asyncio.sleep(0)

    async def flow() -> None:
        asyncio.get_running_loop().call_later(1, call_back, "root")
        await asyncio.create_task(child())
        await asyncio.sleep(2)

    check(flow)
    assert set(ids) == {"t1.1:child", "1:root"}


def test_tasks_that_share_a_context_keep_their_scopes() -> None:
    async def child(name: str) -> None:
        await act(name)

    async def flow() -> None:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.create_task(child(name), context=context) for name in "pq"))

    assert check(flow).ids == ["t1.1:p", "t2.1:q"]


def test_callback_in_a_context_of_its_own_has_the_root_scope() -> None:
    async def flow() -> list[str]:
        ids: list[str] = []

        def call_back() -> None:
            call = act("orphan")
            ids.append(call.activity_id)
            call.close()

        asyncio.get_running_loop().call_soon(call_back, context=contextvars.Context())
        await asyncio.sleep(0)
        return ids

    assert check(flow).result == ["1:orphan"]


def test_call_awaited_twice_raises() -> None:
    async def flow() -> Any:
        call = act("a")
        await call
        with pytest.raises(RuntimeError, match="awaited already"):
            await call
        return "once"

    assert check(flow).result == "once"


def test_call_never_awaited_warns() -> None:
    async def flow() -> None:
        with pytest.warns(RuntimeWarning, match="1:lost.*never awaited"):
            act("lost")
        await act("a")

    check(flow)


def test_call_cancelled_before_it_starts_is_not_asked_for() -> None:
    async def flow() -> str:
        task = asyncio.create_task(act("never"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "cancelled"

    shell = check(flow)
    assert shell.result == "cancelled"
    assert shell.commands == []


def test_call_withdrawn_in_its_own_turn_is_not_asked_for() -> None:
    async def flow() -> None:
        task = asyncio.create_task(act("withdrawn"))
        await asyncio.sleep(0)
        task.cancel()
        await act("other")

    assert check(flow).commands == [("RunActivity", "2:other")]


def test_call_of_another_place_is_refused() -> None:
    made = act("outside")

    async def flow() -> None:
        with pytest.raises(NotInWorkflowError, match="where you await it"):
            await made

    assert Shell(flow).run().result is None


def test_call_of_another_run_is_refused() -> None:
    kept: list[Any] = []

    async def keeps() -> None:
        kept.append(act("kept"))
        await act("a")

    async def takes() -> str:
        with pytest.raises(NotInWorkflowError, match="another run"):
            await kept[0]
        return "refused"

    first, second = begin(keeps), begin(takes)
    first.activate(stamp=T0)
    assert second.activate(stamp=T0).closing is not None
    first.suspend()


@activity
async def ids_plain(number: int) -> int:
    return number + 1


@activity
def ids_plain_sync(number: int) -> int:
    return number + 2


def test_activity_awaited_outside_of_a_workflow_just_runs() -> None:
    async def host() -> tuple[int, int]:
        return await ids_plain(1), await ids_plain_sync(1)

    assert asyncio.run(host()) == (2, 3)


def test_ids_count_on_after_a_caught_failure() -> None:
    async def flow() -> Any:
        with pytest.raises(ValueError, match="no"):
            await act("failing")
        return await act("next")

    def plan(activity_id: str, name: str) -> Outcome:
        return Outcome(1, error=ValueError("no")) if name == "failing" else after()(activity_id, name)

    assert check(flow, plan=plan).ids == ["1:failing", "2:next"]
