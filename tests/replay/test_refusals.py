"""What can't be replayed is refused, with a word about what to do instead."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from romancy import NondeterminismError, NotInWorkflowError, OutsideWorkflowError, as_completed, now, recur, uuid4
from romancy import random as draw

from .harness import Shell
from .scripting import act, define, news


def of_loop(name: str, *args: Any) -> Callable[[], Any]:
    return lambda: getattr(asyncio.get_running_loop(), name)(*args)


ASYNC: dict[str, Callable[[], Awaitable[Any]]] = {
    "to_thread": lambda: asyncio.to_thread(time.sleep, 0),
    "open_connection": lambda: asyncio.open_connection("localhost", 1),
    "start_server": lambda: asyncio.start_server(print, "localhost", 1),
    "subprocess": lambda: asyncio.create_subprocess_exec("true"),
    "shell": lambda: asyncio.create_subprocess_shell("true"),
    "getaddrinfo": of_loop("getaddrinfo", "localhost", 1),
    "sock_recv": of_loop("sock_recv", socket.socket, 1),
    "executor": of_loop("run_in_executor", None, print),
    "anyio.to_thread": lambda: anyio.to_thread.run_sync(time.sleep, 0),
}
SYNC: dict[str, Callable[[], Any]] = {
    "add_reader": of_loop("add_reader", 0, print),
    "add_signal_handler": of_loop("add_signal_handler", signal.SIGTERM, print),
    "call_soon_threadsafe": of_loop("call_soon_threadsafe", print),
    "stop": of_loop("stop"),
    "close": of_loop("close"),
    "run_forever": of_loop("run_forever"),
    "set_task_factory": of_loop("set_task_factory", None),
    "set_exception_handler": of_loop("set_exception_handler", None),
}


@pytest.mark.parametrize("name", [*ASYNC, *SYNC])
def test_io_and_threads_are_refused(name: str) -> None:
    async def flow() -> str:
        if name in ASYNC:
            with pytest.raises(NotInWorkflowError, match="put it in an activity"):
                await ASYNC[name]()
        else:
            with pytest.raises(NotInWorkflowError, match="put it in an activity"):
                SYNC[name]()
        return "refused"

    assert Shell(flow).run().result == "refused"


def test_anyio_connections_are_refused() -> None:
    async def flow() -> str:
        try:
            await anyio.connect_tcp("localhost", 1)
        except* NotInWorkflowError:
            pass
        return "refused"

    assert Shell(flow).run().result == "refused"


def test_refusal_names_the_call() -> None:
    async def flow() -> str:
        try:
            await asyncio.to_thread(time.sleep, 0)
        except NotInWorkflowError as exc:
            return str(exc)
        return ""

    assert Shell(flow).run().result == "loop.run_in_executor() in a workflow: put it in an activity"


def test_refusal_that_is_not_caught_blocks_the_run() -> None:
    async def flow() -> None:
        await asyncio.to_thread(time.sleep, 0)

    shell = Shell(flow).run()
    assert shell.last.blocked is not None
    assert shell.failure["type"] == "romancy.errors:NotInWorkflowError"


def test_as_completed_over_coroutines_is_refused() -> None:
    async def child() -> None: ...

    async def flow() -> str:
        try:
            for one in asyncio.as_completed([child(), child()]):
                await one
        except NondeterminismError as exc:
            return str(exc)
        return ""

    with pytest.warns(RuntimeWarning, match="never awaited"):  # asyncio drops the second one
        message = Shell(flow).run().result
    assert "romancy.as_completed" in message


@pytest.mark.parametrize("call", [now, uuid4, draw, news.receive, lambda: news.send(1, to="x")])
def test_outside_of_a_workflow_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(OutsideWorkflowError, match="no workflow runs"):
        call()


def test_recur_outside_of_a_workflow_is_refused() -> None:
    async def flow() -> None: ...

    with pytest.raises(OutsideWorkflowError):
        recur(define(flow)())


def test_as_completed_is_public() -> None:
    async def flow() -> list[Any]:
        return [await one for one in as_completed([act("a")])]

    assert Shell(flow).run().result == ["1:a!"]
