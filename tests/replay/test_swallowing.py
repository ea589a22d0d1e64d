"""A workflow that swallows `SuspendSignal` is suspended all the same, does nothing more, and is told on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from romancy import is_suspend_signal, side_effect

from .harness import check
from .scripting import T0, act, begin, news

FORMS: dict[str, Callable[..., Any]] = {}
seen: list[str] = []
_FILE = str(Path(__file__))


def form(fn: Callable[..., Any]) -> Callable[..., Any]:
    FORMS[fn.__name__] = fn
    return fn


@form
async def except_base_exception() -> None:
    try:
        await act("a")
    except BaseException:
        seen.append("swallowed")
    await act("b")
    seen.append("went on")


@form
async def exception_group() -> None:
    async def grouped() -> None:
        try:
            await act("a")
        except BaseException as exc:
            raise BaseExceptionGroup("grouped", [exc]) from None

    try:
        await grouped()
    except BaseExceptionGroup as exc:
        seen.append("swallowed" if is_suspend_signal(exc) else "went on")
    await news.receive()
    seen.append("went on")


@form
async def return_exceptions() -> None:
    await asyncio.gather(act("a"), act("b"), return_exceptions=True)
    seen.append("swallowed")
    await act("c")
    seen.append("went on")


@form
async def endless_loop() -> None:
    while True:
        try:
            await news.receive()
        except BaseException:
            seen.append("swallowed")


@form
async def endless_loop_with_ticks() -> None:
    while True:
        try:
            await news.receive()
        except BaseException:
            seen.append("swallowed")
            await asyncio.sleep(0)


@form
async def suppress() -> str:
    with contextlib.suppress(BaseException):
        await act("a")
    return "swallowed"


@form
async def spawns() -> None:
    async def other() -> None:
        seen.append("went on")

    try:
        await act("a")
    except BaseException:
        seen.append("swallowed")
    task = asyncio.create_task(other())
    await task


@form
async def sends() -> None:
    with contextlib.suppress(BaseException):
        await act("a")
    await news.send(1, to="other")
    seen.append("went on")


@form
async def sleeps() -> None:
    with contextlib.suppress(BaseException):
        await act("a")
    await asyncio.sleep(1)
    seen.append("went on")


@form
async def reads_the_world() -> None:
    with contextlib.suppress(BaseException):
        await act("a")
    side_effect(lambda: seen.append("went on"))


@form
async def shields() -> None:
    task = asyncio.create_task(act("a"))
    with contextlib.suppress(BaseException):
        await asyncio.shield(task)
    with contextlib.suppress(BaseException):
        await asyncio.shield(task)
    await act("b")
    seen.append("went on")


@pytest.fixture(autouse=True)
def fresh() -> None:
    seen.clear()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("name", FORMS)
def test_swallowing_changes_nothing_and_is_told(name: str) -> None:
    execution = begin(FORMS[name])
    execution.activate(stamp=T0)
    asked = len(execution.operations.commands)
    loop = execution.loop
    operations = execution.operations
    warnings = execution.suspend()
    gc.collect()
    assert "went on" not in seen
    assert seen.count("swallowed") <= 4
    assert asked >= len(operations.commands)
    assert asyncio.all_tasks(loop) == set()
    assert len(warnings) == 1
    assert "'root' swallowed SuspendSignal" in warnings[0]
    assert _FILE in warnings[0]


def test_warning_names_the_line_that_asked_for_more() -> None:
    execution = begin(except_base_exception)
    execution.activate(stamp=T0)
    (warning,) = execution.suspend()
    # The operation is asked for by the line itself; `act` is not the author's.
    line = except_base_exception.__code__.co_firstlineno + 6
    assert f"{_FILE}:{line}" in warning


def test_warning_names_the_function_that_returned() -> None:
    execution = begin(suppress)
    execution.activate(stamp=T0)
    (warning,) = execution.suspend()
    assert f"{_FILE}:{suppress.__code__.co_firstlineno}" in warning


def test_warning_names_the_child_task_that_swallowed() -> None:
    async def child() -> None:
        with contextlib.suppress(BaseException):
            await act("a")

    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child(), name="swallower")
            await act("b")

    execution = begin(flow)
    execution.activate(stamp=T0)
    (warning,) = execution.suspend()
    assert "'swallower'" in warning


def test_raising_another_error_from_the_signal_is_no_swallowing() -> None:
    async def flow() -> None:
        try:
            await act("a")
        except BaseException as exc:
            raise ValueError("told") from exc

    execution = begin(flow)
    execution.activate(stamp=T0)
    assert execution.suspend() == []


def test_run_goes_on_after_it_swallowed() -> None:
    async def flow() -> Any:
        with contextlib.suppress(Exception):
            await act("a")
        return await act("b")

    assert check(flow).ids == ["1:a", "2:b"]
