"""Runs nest in a host's event loop, and neither leaks into the other."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from .scripting import T0, act, begin, completed

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
seen: list[Any] = []

Runner = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop", reason="there is no uvloop for this platform or Python")
    found: Runner = uvloop.run
    return found


async def flow() -> str:
    seen.append(request_id.get())
    await act("a")
    seen.append(request_id.get())
    asyncio.get_running_loop().call_soon(lambda: seen.append(request_id.get()))
    asyncio.get_running_loop().call_later(0, lambda: seen.append(request_id.get()))
    await asyncio.create_task(child())
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


async def child() -> None:
    seen.append(request_id.get())


def test_run_is_driven_from_callbacks_of_a_host(run: Runner) -> None:
    async def host() -> None:
        request_id.set("request 7")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Any] = loop.create_future()
        execution = begin(flow)

        def begin_it() -> None:
            assert asyncio.current_task() is None
            execution.activate(stamp=T0)
            assert asyncio.get_running_loop() is loop
            loop.call_soon(end_it)

        def end_it() -> None:
            ended.set_result(execution.activate([completed("1:a")], stamp=T0))

        loop.call_soon(begin_it)
        turn = await ended
        assert turn.closing.note.payload == b'"root"'

    seen.clear()
    run(host())
    assert seen == [None] * 5


def test_run_can_be_driven_inside_a_host_task(run: Runner) -> None:
    async def host() -> str:
        execution = begin(flow)
        execution.activate(stamp=T0)
        execution.suspend()
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)
        return task.get_name()

    assert run(host()).startswith("Task")


def test_hosts_own_generators_are_finalised_as_ever(run: Runner) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("closed by the host")

    async def host() -> None:
        before = sys.get_asyncgen_hooks()
        execution = begin(flow)
        execution.activate(stamp=T0)
        assert sys.get_asyncgen_hooks() == before
        execution.suspend()
        assert sys.get_asyncgen_hooks() == before
        async for _ in numbers():
            break
        await asyncio.sleep(0.01)

    seen.clear()
    run(host())
    assert seen[-1] == "closed by the host"


def test_hosts_tasks_are_not_the_runs() -> None:
    async def counts() -> int:
        return len(asyncio.all_tasks())

    async def host() -> bytes | None:
        others = [asyncio.create_task(asyncio.sleep(0)) for _ in range(5)]
        turn = begin(counts).activate(stamp=T0)
        await asyncio.gather(*others)
        assert turn.closing is not None
        return turn.closing.note.payload

    assert asyncio.run(host()) == b"1"


def test_run_without_any_host() -> None:
    execution = begin(flow)
    execution.activate(stamp=T0)
    assert execution.activate([completed("1:a")], stamp=T0).closing is not None


def test_two_runs_do_not_meet() -> None:
    first, second = begin(flow, execution_id=1), begin(flow, execution_id=2)
    first.activate(stamp=T0)
    second.activate(stamp=T0 + 7)
    assert first.loop.time() != second.loop.time()
    assert first.activate([completed("1:a")], stamp=T0).closing is not None
    assert second.closing is None
    second.suspend()
