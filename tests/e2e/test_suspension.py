"""Code that catches everything around a wait survives leaving memory; nothing of the unwinding happens."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing

import anyio
import pytest

from romancy import App, Channel, InstanceInfo, activity, is_suspend_signal, workflow
from romancy.core.definitions import Workflow
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import OffsetClock, StorageProxy

pytestmark = pytest.mark.anyio

letters = Channel("suspension_letters", str)
echoes = Channel("suspension_echoes", str)
bodies: Counter[str] = Counter()
unwound: Counter[str] = Counter()
objects: weakref.WeakSet[Witness] = weakref.WeakSet()


class Witness:
    """Lives as long as the frame that holds it."""

    def __init__(self) -> None:
        objects.add(self)


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    bodies.clear()
    unwound.clear()
    objects.clear()


@activity
async def suspension_act(what: str) -> str:
    bodies[what] += 1
    return what


@workflow
async def catches_exception() -> str:
    witness = Witness()
    try:
        return await letters.receive()
    except Exception:
        await suspension_act("caught")
        return f"caught beside {witness}"


@workflow
async def catches_base_exception() -> str:
    witness = Witness()
    try:
        return await letters.receive()
    except BaseException as exc:
        unwound["seen" if is_suspend_signal(exc) else "other"] += 1
        await suspension_act("caught")
        await echoes.send("caught", to="one")
        return f"caught beside {witness}"


@workflow
async def swallows_in_a_loop() -> str:
    # It hangs where it swallows the signal for the fourth time, and is kept from ever being finalised: no witness.
    for _ in range(10):
        try:
            return await letters.receive()
        except BaseException:
            unwound["seen"] += 1
    return "gave up"


@workflow
async def cleans_up() -> str:
    witness = Witness()
    try:
        letter = await letters.receive()
    finally:
        await suspension_act("cleanup")
    assert witness is not None
    return letter


@workflow
async def gathers_exceptions() -> str:
    witness = Witness()
    one, other = await asyncio.gather(letters.receive(), letters.receive(), return_exceptions=True)
    await suspension_act(f"{type(one).__name__} {type(other).__name__}")
    assert witness is not None
    return str(one)


@workflow
async def waits_in_a_queue() -> str:
    witness = Witness()
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def fill() -> None:
        await queue.put(await letters.receive())

    filling = asyncio.create_task(fill())
    letter = await queue.get()
    await filling
    assert witness is not None
    return letter


@workflow
async def waits_for_an_event_and_a_lock() -> str:
    witness = Witness()
    event, lock = asyncio.Event(), asyncio.Lock()
    found: list[str] = []

    async def hold() -> None:
        async with lock:
            found.append(await letters.receive())
        event.set()

    async def queue_up() -> None:
        async with lock:
            found.append("locked")

    async with asyncio.TaskGroup() as group:
        group.create_task(hold())
        group.create_task(queue_up())
        await event.wait()
    assert witness is not None
    assert found[-1] == "locked"
    return found[0]


@workflow
async def iterates_and_breaks() -> str:
    witness = Witness()

    async def arriving() -> AsyncGenerator[str, None]:
        inner = Witness()
        try:
            while True:
                yield await letters.receive()
        finally:
            unwound["closed"] += 1
            assert inner is not None

    found: list[str] = []
    async for letter in arriving():
        found.append(letter)
        break
    async with aclosing(arriving()) as others:
        async for _ in others:
            break
    assert witness is not None
    return found[0]


@workflow
async def shields() -> str:
    witness = Witness()

    async def inner() -> str:
        return await letters.receive()

    try:
        letter = await asyncio.shield(inner())
    except asyncio.CancelledError:
        letter = await suspension_act("cancelled")
    assert witness is not None
    return letter


@workflow
async def waits_in_anyio() -> str:
    witness = Witness()
    found: list[str] = []

    async def wait() -> None:
        found.append(await letters.receive())

    with anyio.move_on_after(3600):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
    assert witness is not None
    return found[0]


WORK: list[Workflow[[], str]] = [
    catches_exception,
    catches_base_exception,
    swallows_in_a_loop,
    cleans_up,
    gathers_exceptions,
    waits_in_a_queue,
    waits_for_an_event_and_a_lock,
    iterates_and_breaks,
    shields,
    waits_in_anyio,
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.name)
async def test_wait_survives_leaving_memory_and_nothing_of_the_unwinding_happens(
    database: str, make_app: MakeApp, work: Workflow[[], str]
) -> None:
    for _ in range(3):
        async with make_app(database) as app:
            handle = await app.start(work(), id="one", on_conflict="attach")
            await waiting_for_letters(handle.info)
            assert await handle.history() == []
        await asyncio.sleep(0)
        assert not objects
    assert not bodies
    async with make_app(database) as app:
        for letter in ("first", "second"):
            await app.send(letters, letter, to="one")
            if work not in (gathers_exceptions, iterates_and_breaks):
                break
        handle = await app.get("one")
        assert await handle.result() == "first"
        assert "message_sent" not in {event.kind for event in await handle.history()}
    assert bodies == {cleans_up: {"cleanup": 1}, gathers_exceptions: {"str str": 1}}.get(work, {})
    assert not unwound["other"]


async def waiting_for_letters(info: Callable[[], Coroutine[None, None, InstanceInfo]]) -> None:
    """Wait until it is written that the run waits for a letter."""
    while "suspension_letters" not in str((await info()).waiting_on):
        await asyncio.sleep(0.001)


async def test_nothing_of_an_evicted_run_is_left_for_the_garbage_collector(make_app: MakeApp) -> None:
    gc.collect()
    gc.disable()
    try:
        async with make_app() as app:
            for n in range(50):
                handle = await app.start(WORK[n % len(WORK)](), id=f"{n}")
                await waiting_for_letters(handle.info)
        await asyncio.sleep(0)
        assert not objects
    finally:
        gc.enable()


@workflow
async def begins_by_sleeping() -> str:
    await asyncio.sleep(60)
    return "slept"


async def test_run_that_sleeps_before_its_first_event_wakes_in_another_process(
    shared: Storage, clock: OffsetClock, hot_limit: int
) -> None:
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        handle = await app.start(begins_by_sleeping(), id="sleeper")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.001)
    clock.advance(61)
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        assert await (await app.get("sleeper")).result() == "slept"
