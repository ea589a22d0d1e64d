"""anyio's task groups and cancel scopes work in workflows."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from .harness import check
from .scripting import Outcome, Plan, act, log, varied


def by_name(**seconds: float) -> Plan:
    return lambda activity_id, name: Outcome(seconds[name], name)


def test_task_group() -> None:
    async def flow() -> list[Any]:
        got: list[Any] = []

        async def child(name: str) -> None:
            got.append(await act(name))

        async with anyio.create_task_group() as group:
            for name in ("a", "b", "c"):
                group.start_soon(child, name)
        return got

    assert check(flow, plan=by_name(a=3, b=1, c=2)).result == ["b", "c", "a"]


def test_task_group_raises_a_group() -> None:
    async def flow() -> int:
        async def bad() -> None:
            await act("bad")

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(bad)
        except ExceptionGroup as errors:
            return len(errors.exceptions)
        return 0

    def plan(activity_id: str, name: str) -> Outcome:
        return Outcome(1, error=ValueError("bad"))

    assert check(flow, plan=plan).result == 1


@pytest.mark.parametrize(("limit", "expected"), [(2, True), (4, False)])
def test_move_on_after(limit: float, *, expected: bool) -> None:
    async def flow(limit: float) -> bool:
        with anyio.move_on_after(limit) as scope:
            await act("slow")
        return scope.cancelled_caught

    assert check(flow, limit, plan=by_name(slow=3)).result is expected


def test_fail_after() -> None:
    async def flow() -> str:
        try:
            with anyio.fail_after(1):
                await act("slow")
        except TimeoutError:
            return "late"
        return "in time"

    assert check(flow, plan=by_name(slow=3)).result == "late"


def test_nested_scopes_with_shielded_cleanup() -> None:
    async def flow() -> bool:
        async def child(number: int) -> None:
            with anyio.CancelScope():
                try:
                    await act(f"c{number}")
                    await anyio.sleep(number)
                finally:
                    log("leaving", number)
                    with anyio.CancelScope(shield=True):
                        log("left", number, await act(f"l{number}"))

        with anyio.move_on_after(3) as scope:
            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(child, number)
        return scope.cancelled_caught

    for seed in range(8):
        check(flow, plan=varied(seed), jitter=True, seed=seed)


def test_cancelled_scope_around_a_task_group_with_durable_cleanup_ends() -> None:
    async def flow() -> str:
        async def child() -> None:
            try:
                await act("long")
            except asyncio.CancelledError:
                log(await act("cleanup"))
                raise

        with anyio.move_on_after(1):
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        return "done"

    assert check(flow, plan=by_name(long=9, cleanup=1)).result == "done"


def test_events_locks_and_streams() -> None:
    async def flow() -> list[Any]:
        send, receive = anyio.create_memory_object_stream[Any](1)
        limiter, event = anyio.CapacityLimiter(1), anyio.Event()
        got: list[Any] = []

        async def produce(name: str) -> None:
            await event.wait()
            async with limiter:
                await send.send(await act(name))

        async with anyio.create_task_group() as group, send, receive:
            for name in ("a", "b", "c"):
                group.start_soon(produce, name)
            await anyio.sleep(1)
            event.set()
            got.extend([await receive.receive() for _ in range(3)])
        return got

    assert sorted(check(flow, plan=by_name(a=3, b=1, c=2)).result) == ["a", "b", "c"]
