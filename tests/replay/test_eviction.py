"""A parked run leaves memory in one tick, leaves nothing behind, and runs nothing that it must not."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from romancy import SuspendSignal, as_suspend_signal, is_suspend_signal
from romancy.core.calls import current_run
from romancy.replay.suspend import SuspendKind

from .harness import Shell
from .scripting import T0, act, begin, completed, events_of, log, news, undoable

PARKED: dict[str, Callable[..., Any]] = {}
ran: list[str] = []
"""What the author's code did that it must not do when the run is evicted."""


def parked(fn: Callable[..., Any]) -> Callable[..., Any]:
    PARKED[fn.__name__] = fn
    return fn


@parked
async def in_an_activity() -> None:
    await act("a")


@parked
async def in_a_sleep() -> None:
    await asyncio.sleep(60)


@parked
async def in_a_receive_under_timeout() -> None:
    async with asyncio.timeout(60):
        await news.receive(timeout=9)


@parked
async def in_queue_get() -> None:
    await asyncio.Queue[int]().get()


@parked
async def in_queue_put() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
    await queue.put(1)
    await queue.put(2)


@parked
async def in_event_wait() -> None:
    await asyncio.Event().wait()


@parked
async def in_lock() -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


@parked
async def in_semaphore() -> None:
    async with asyncio.Semaphore(1) as _:
        semaphore = asyncio.Semaphore(0)
        await semaphore.acquire()


@parked
async def in_condition() -> None:
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


@parked
async def in_condition_whose_lock_is_taken() -> None:
    condition = asyncio.Condition()

    async def holder() -> None:
        async with condition:
            await act("held")

    async with condition:
        task = asyncio.create_task(holder())
        await asyncio.sleep(0)
        await condition.wait()
    await task


@parked
async def in_barrier() -> None:
    await asyncio.Barrier(2).wait()


@parked
async def in_a_future_of_the_loop() -> None:
    await asyncio.get_running_loop().create_future()


@parked
async def in_a_future_past_the_loop() -> None:
    await asyncio.Future()


@parked
async def in_gather() -> None:
    own = asyncio.get_running_loop().create_future()
    await asyncio.gather(act("a"), asyncio.sleep(9), own, asyncio.gather(act("b")))


@parked
async def in_gather_of_futures() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.gather(loop.create_future(), asyncio.gather(loop.create_future(), loop.create_future()))


@parked
async def in_wait() -> None:
    await asyncio.wait({asyncio.create_task(act("a")), asyncio.create_task(act("b"))}, timeout=9)


@parked
async def in_a_shielded_task() -> None:
    await asyncio.shield(asyncio.create_task(act("a")))


@parked
async def in_task_groups() -> None:
    async def deepest() -> None:
        try:
            await act("y")
        except asyncio.CancelledError:
            ran.append("cancellation handler")
            raise

    async def deep() -> None:
        await asyncio.create_task(deepest())

    async def middle() -> None:
        try:
            await asyncio.create_task(deep())
        except asyncio.CancelledError:
            ran.append("cancellation handler")
            raise

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(asyncio.wait_for(act("x"), 10))
        group.create_task(middle())
        group.create_task(middle())
        await asyncio.create_task(middle())


@parked
async def in_anyio_scopes() -> None:
    async def child() -> None:
        try:
            await act("x")
        except asyncio.CancelledError:
            ran.append("cancellation handler")
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        group.start_soon(child)
        with anyio.CancelScope(shield=True):
            await anyio.Event().wait()


@parked
async def beside_a_suspended_async_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ran.append("finally of a generator")

    generator = numbers()
    await anext(generator)
    await news.receive()


@parked
async def behind_a_broken_async_for() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ran.append("finally of a generator")

    async for _ in numbers():
        break
    await news.receive()


@parked
async def in_an_async_generator() -> None:
    async def numbers() -> AsyncIterator[Any]:
        yield await act("a")

    async for _ in numbers():
        pass


@parked
async def beside_a_suspended_generator() -> None:
    def numbers() -> Iterator[int]:
        try:
            yield 1
        finally:
            if current_run() is None:
                ran.append("finally of a generator, outside of the run")

    generator = numbers()
    next(generator)
    await news.receive()


@parked
async def with_an_exception_that_is_kept() -> None:
    try:
        await act("a")
    except BaseException as exc:
        kept = exc
        kept.add_note("a cycle through the frame")
        raise


@parked
async def with_an_abandoned_activity() -> None:
    try:
        await asyncio.wait_for(undoable("evicted_charge"), 0)
    except TimeoutError:
        await news.receive()


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()


@pytest.mark.parametrize("name", PARKED)
def test_evicted_run_leaves_nothing(name: str) -> None:
    execution = begin(PARKED[name])
    turn = execution.activate(stamp=T0)
    assert turn.closing is None
    assert turn.blocked is None
    loop = execution.loop
    left = [weakref.ref(item) for item in (*loop.tasks, *loop.generators)]
    assert left

    assert execution.suspend() == []
    assert loop.reports == []
    assert asyncio.all_tasks(loop) == set()
    gc.collect()
    assert [ref() for ref in left if ref() is not None] == []
    assert ran == []
    gone = weakref.ref(loop)
    del loop, execution, turn
    gc.collect()
    assert gone() is None
    assert ran == []


@pytest.mark.parametrize("name", PARKED)
def test_evicted_run_comes_back_where_it_was(name: str) -> None:
    before = begin(PARKED[name])
    turn = before.activate(stamp=T0)
    asked = [command.activity_id for command in before.outstanding()]
    deadline = before.timers.next_deadline()
    before.suspend()
    after = begin(PARKED[name])
    assert after.replay(events_of(turn), drained_seq=0, started_at=T0) is None
    after.activate(stamp=T0)
    assert [command.activity_id for command in after.outstanding()] == asked
    assert after.timers.next_deadline() == deadline
    after.suspend()


def test_evicting_runs_finally_but_records_nothing() -> None:
    async def flow() -> None:
        try:
            await act("a")
        finally:
            ran.append("finally")
            await act("cleanup")
            ran.append("behind the cleanup")

    execution = begin(flow)
    execution.activate(stamp=T0)
    assert execution.suspend() == []
    assert ran == ["finally"]


def test_parallel_cleanup_in_finally_is_silent() -> None:
    async def cleanup(name: str) -> None:
        await act(name)

    async def flow() -> None:
        try:
            await act("a")
        finally:
            await asyncio.gather(cleanup("x"), cleanup("y"))

    execution = begin(flow)
    execution.activate(stamp=T0)
    assert execution.suspend() == []
    gc.collect()  # a warning of a coroutine never awaited would be an error here


def test_cancelling_a_task_of_an_evicted_run_does_nothing() -> None:
    async def flow() -> None:
        async def child() -> None:
            try:
                await act("a")
            except asyncio.CancelledError:
                ran.append("cancellation handler")
                raise

        task = asyncio.create_task(child())
        try:
            await act("b")
        finally:
            ran.append(str(task.cancel()))

    execution = begin(flow)
    execution.activate(stamp=T0)
    execution.suspend()
    assert ran == ["False"]


def test_run_that_has_not_begun_can_leave() -> None:
    assert begin(PARKED["in_a_sleep"]).suspend() == []


def test_blocked_run_can_leave() -> None:
    async def flow() -> None:
        task = asyncio.create_task(act("a"))
        await act("b")
        await task
        raise TypeError

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([completed("1:a"), completed("2:b")], stamp=T0)
    assert turn.blocked is not None
    assert execution.suspend() == []


# -- the signal -------------------------------------------------------------------------------------------


def signal_of(fn: Callable[..., Any]) -> SuspendSignal:
    caught: list[BaseException] = []

    async def flow() -> None:
        try:
            await fn()
        except BaseException as exc:
            caught.append(exc)
            raise

    execution = begin(flow)
    execution.activate(stamp=T0)
    assert execution.suspend() == []
    found = as_suspend_signal(caught[0])
    assert found is not None
    return found


def test_signal_of_an_activity() -> None:
    signal = signal_of(lambda: act("a"))
    assert (signal.kind, signal.activity_id, signal.instance_id) == (SuspendKind.ACTIVITY, "1:a", "i")


def test_signal_of_a_receive() -> None:
    signal = signal_of(lambda: news.receive(timeout=5))
    assert (signal.kind, signal.activity_id) == (SuspendKind.CHANNEL_MESSAGE, "1:news")
    assert (signal.channel, signal.timeout) == ("news", 5)


def test_signal_of_a_timer() -> None:
    signal = signal_of(lambda: asyncio.sleep(60))
    assert (signal.kind, signal.activity_id) == (SuspendKind.TIMER, "@1")
    assert signal.expires_at == datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)


def test_signal_in_a_group_and_as_a_cause() -> None:
    signal = SuspendSignal(SuspendKind.TIMER)
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = BaseExceptionGroup("g", [ExceptionGroup("h", [ValueError()]), signal])
    assert as_suspend_signal(wrapped) is signal
    assert is_suspend_signal(wrapped)
    assert not is_suspend_signal(ValueError("x"))
    assert not is_suspend_signal(None)
    looping = ValueError("loop")
    looping.__cause__ = looping
    assert not is_suspend_signal(looping)


def test_run_is_evicted_at_every_turn() -> None:
    async def flow() -> list[Any]:
        got: list[Any] = []
        for number in range(4):
            async with asyncio.timeout(50):
                got += await asyncio.gather(act("a"), asyncio.wait_for(act("b"), 9))
            log(number)
        return got

    live = Shell(flow).run()
    for number in range(1, len(live.turns)):
        evicted = Shell(flow, evict=[number]).run()
        assert evicted.evictions == 1
        assert (evicted.trace, evicted.end) == (live.trace, live.end)
