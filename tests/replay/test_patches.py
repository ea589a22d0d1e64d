"""What is patched in asyncio, anyio and Python: these fail when a new version changes what the patches rely on."""

from __future__ import annotations

import asyncio
import inspect
import sys
import warnings
from asyncio import tasks
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest
from anyio._backends import _asyncio as backend

from romancy.replay.futures import OrderedIdentitySet, ReplayFuture, ReplayTask
from romancy.replay.patches import DELIVERY, GatheringFuture

from .harness import Shell
from .scripting import T0, act, begin, news


def test_gather_makes_its_own_future_of_this_class() -> None:
    async def host() -> None:
        gathered = asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        assert type(gathered) is GatheringFuture
        assert len(cast("Any", gathered)._children) == 2
        assert hash(gathered) == object.__hash__(gathered)  # as ever, on another loop
        await gathered

    asyncio.run(host())


def test_futures_of_gather_hash_by_their_number_in_the_run() -> None:
    hashes: list[list[int]] = []

    async def flow() -> None:
        made = [asyncio.gather(asyncio.sleep(0)) for _ in range(3)]
        hashes.append([hash(future) for future in made])
        assert hashes[-1] == [hash(future) for future in made]
        await asyncio.wait(made)

    for _ in range(2):
        Shell(flow).run()
    assert hashes[0] == hashes[1]
    assert hashes[0] == sorted(set(hashes[0]))


def test_tasks_and_futures_of_the_run_hash_by_their_number() -> None:
    found: list[Any] = []

    async def flow() -> None:
        task = asyncio.current_task()
        future = asyncio.get_running_loop().create_future()
        assert isinstance(task, ReplayTask)
        assert isinstance(future, ReplayFuture)
        assert hash(task) == task.ordinal_hash
        assert hash(future) == future.ordinal_hash
        assert hash(asyncio.get_running_loop().create_future()) == hash(future) + 1
        found.append((hash(task), hash(future)))

    for number in (1, 1, 2):
        begin(flow, execution_id=number).activate(stamp=T0)
    assert found[0] == found[1] != found[2]


def test_scopes_keep_their_children_in_order_in_a_run_alone() -> None:
    async def flow() -> str:
        scope = anyio.CancelScope()
        return type(cast("Any", scope)._child_scopes).__name__

    assert Shell(flow).run().result == OrderedIdentitySet.__name__
    assert asyncio.run(flow()) == "set"
    source = inspect.getsource(backend.CancelScope)
    assert "_child_scopes.add(" in source
    assert "in self._child_scopes" in source


def test_ordered_set_behaves_as_a_set() -> None:
    first, second = object(), object()
    made = OrderedIdentitySet([second, first, second])
    assert (list(made), len(made)) == ([second, first], 2)
    assert first in made
    made.discard(second)
    made.discard(second)
    made.add(second)
    assert list(made) == [first, second]


def test_anyio_delivers_a_cancellation_again_at_every_tick() -> None:
    assert DELIVERY.function is backend.CancelScope._deliver_cancellation
    source = "".join(inspect.getsource(DELIVERY.function).split())
    assert "call_soon(self._deliver_cancellation" in source


def test_anyio_runs_threads_by_this_method() -> None:
    method = inspect.getattr_static(backend.AsyncIOBackend, "run_sync_in_worker_thread")
    assert isinstance(method, staticmethod)
    assert "run_sync_in_worker_thread" in inspect.getsource(anyio.to_thread.run_sync)

    async def host() -> int:
        return await anyio.to_thread.run_sync(lambda: 7)

    assert asyncio.run(host()) == 7


def test_wait_for_and_ensure_future_are_recognised_by_their_code() -> None:
    assert inspect.iscoroutinefunction(tasks.wait_for)
    assert "ensure_future" in inspect.getsource(tasks.gather)
    if sys.version_info < (3, 12):
        assert "ensure_future(fut" in inspect.getsource(tasks.wait_for)


def test_task_tells_what_it_waits_on() -> None:
    async def flow() -> None:
        await news.receive()

    execution = begin(flow)
    execution.activate(stamp=T0)
    assert execution.root is not None
    waiter = cast("Any", execution.root)._fut_waiter
    assert waiter is execution.pending_calls()[0].future
    execution.suspend()


def forget(fn: Callable[[], object]) -> None:
    """Call it, and drop what it returns."""
    fn()


def test_coroutines_never_awaited_still_warn_elsewhere() -> None:
    async def forgotten() -> None: ...

    async def flow() -> None:
        forget(forgotten)
        await act("a")

    with pytest.warns(RuntimeWarning, match="never awaited"):
        forget(forgotten)
    execution = begin(flow)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        execution.activate(stamp=T0)
    assert cast("Any", warnings)._warn_unawaited_coroutine.__module__ == "romancy.replay.patches"
    execution.suspend()
