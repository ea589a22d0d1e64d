"""Instances that are paused, and go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from romancy import (
    App,
    Channel,
    InstanceClosedError,
    InstanceNotFoundError,
    WorkflowBlockedError,
    WorkflowTerminatedError,
    activity,
    side_effect,
    sleep,
    workflow,
)
from romancy.core.records import Entry, Mail, Status
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import Fault, MeddlingStorage, OffsetClock, StorageProxy, insist
from .sweep import Scenario, act, begin, events_of, outcome_of, sweep

pytestmark = pytest.mark.anyio

letters: Channel[str] = Channel("pausing.letters", str)
echoes: Channel[str] = Channel("pausing.echoes", str)
begun: list[str] = []
gates: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    begun.clear()
    gates[:] = [asyncio.Event()]


@activity(name="pausing_act")
async def step(name: str) -> str:
    begun.append(name)
    await gates[0].wait()
    return name


@workflow(name="pausing_steps")
async def steps() -> list[str]:
    return [await step("one"), await step("two")]


@workflow(name="pausing_receive")
async def receive() -> str:
    return await letters.receive()


@workflow(name="pausing_sleep")
async def nap() -> str:
    await sleep(0.3)
    return "awake"


async def test_paused_run_keeps_a_result_and_asks_for_nothing_more(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(steps(), id="one")
        while begun != ["one"]:
            await asyncio.sleep(0.002)
        await handle.pause()
        assert await handle.status() == "paused"
        gates[0].set()
        while (await handle.info()).is_owned:
            await asyncio.sleep(0.002)
        assert [event.kind for event in await handle.history()] == ["activity_completed"]
        assert begun == ["one"]
        assert await handle.status() == "paused"
        await handle.unpause()
        assert await handle.result() == ["one", "two"]
        assert begun == ["one", "two"]


async def test_paused_run_takes_messages_when_it_goes_on(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(receive(), id="one")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.002)
        await handle.pause()
        await handle.pause()  # it stays so
        await handle.send(letters, "hello")
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.1)
        await handle.unpause()
        with contextlib.suppress(InstanceClosedError):  # it may have ended meanwhile
            await handle.unpause()
        assert await handle.result() == "hello"


@workflow(name="pausing_send")
async def send_and_act(number: int) -> list[Any]:
    """Go on from a result, and from the outcomes of sends, to what only a live turn may ask for."""
    first = await step("one")
    for _ in range(number):
        await letters.send("hello", to="other")
    drawn = side_effect(lambda: 7)
    return [first, drawn, await step("two")]


@pytest.mark.parametrize("commit", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 1, 2])
async def test_nothing_begins_when_a_pause_comes_before_a_commit_and_nothing_is_lost(
    make_app: MakeApp, shared: Storage, number: int, commit: int
) -> None:
    storage = MeddlingStorage(shared)
    async with make_app(storage.storage) as app:
        handle = await app.start(send_and_act(number), id="one")
        await app.start(receive(), id="other", delay=3600)
        while begun != ["one"]:
            await asyncio.sleep(0.002)
        commits = 0
        begun_then: list[str] = []

        async def pause(entries: Sequence[Entry]) -> None:
            nonlocal commits
            if any(entry.notes or entry.requests for entry in entries):
                commits += 1
                if commits == commit:
                    await shared.pause("one")
                    begun_then[:] = begun

        storage.before = pause
        gates[0].set()
        while await handle.status() != "completed" and (await handle.info()).is_owned:
            await asyncio.sleep(0.002)
        if await handle.status() == "paused":
            assert begun == begun_then
            await handle.unpause()
        assert await handle.result() == ["one", 7, "two"]
        assert begun == ["one", "two"]


async def test_pause_that_comes_before_a_run_is_blocked_holds_until_it_is_taken_back(
    make_app: MakeApp, shared: Storage
) -> None:
    is_mended = False

    async def flow() -> str:
        first: Any = await step("one")
        return await step("two") if is_mended else first.no_such_attribute

    definition = workflow(name="pausing_blocked")(flow)
    gates[0].set()
    storage = MeddlingStorage(shared)
    async with make_app(storage.storage, workflows=[definition], build="1") as app:

        async def pause(entries: Sequence[Entry]) -> None:
            if any(entry.status is Status.BLOCKED for entry in entries):
                await shared.pause("one")

        storage.before = pause
        handle = await app.start(definition(), id="one")
        while await handle.status() == "running":
            await asyncio.sleep(0.002)
        assert await handle.status() == "paused"
        storage.before = None
        await handle.unpause()
        with pytest.raises(WorkflowBlockedError, match="no_such_attribute"):
            await handle.result()
    assert begun == ["one"]


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_run_goes_on_from_the_result_that_was_kept_of_a_pause(make_app: MakeApp, number: int) -> None:
    async with make_app() as app:
        handle = await app.start(send_and_act(number), id="one")
        await app.start(receive(), id="other", delay=3600)
        while begun != ["one"]:
            await asyncio.sleep(0.002)
        await handle.pause()
        assert await handle.status() == "paused"
        gates[0].set()
        while (await handle.info()).is_owned:
            await asyncio.sleep(0.002)
        await handle.unpause()
        assert await handle.result() == ["one", 7, "two"]
        assert begun == ["one", "two"]


@workflow(name="pausing_act_behind_a_send")
async def act_behind_a_send() -> list[str]:
    await letters.send("hello", to="other")
    return [await step("one"), await step("two")]


async def test_result_that_was_kept_behind_the_outcome_of_a_send_is_not_computed_again(make_app: MakeApp) -> None:
    async with make_app() as app:
        await app.start(receive(), id="other", delay=3600)
        handle = await app.start(act_behind_a_send(), id="one")
        while begun != ["one"]:
            await asyncio.sleep(0.002)
        await handle.pause()
        assert await handle.status() == "paused"
        gates[0].set()
        while (await handle.info()).is_owned:
            await asyncio.sleep(0.002)
        await handle.unpause()
        assert await handle.result() == ["one", "two"]
        assert begun == ["one", "two"]


@workflow(name="pausing_receive_three")
async def receive_three() -> list[str]:
    return [await letters.receive() for _ in range(3)]


async def test_messages_keep_their_order_though_the_clock_was_set_back(
    make_app: MakeApp, shared: Storage, clock: OffsetClock
) -> None:
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        handle = await app.start(receive_three(), id="one")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.002)
        await handle.pause()
        for text in ("one", "two", "three"):
            await handle.send(letters, text)
            clock.advance(-1)
        await handle.unpause()
        assert await handle.result() == ["one", "two", "three"]


async def test_timer_of_a_paused_run_fires_when_it_goes_on(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(nap(), id="one")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.002)
        await handle.pause()
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.5)
        await handle.unpause()
        assert await handle.result() == "awake"


async def test_instance_that_is_paused_before_it_begins_does_not_begin(make_app: MakeApp) -> None:
    async with make_app(worker=False) as client:
        handle = await client.start(steps(), id="one")
        await handle.pause()
        assert await handle.status() == "paused"
        await handle.unpause()
        assert await handle.status() == "pending"


class PausingStorage(StorageProxy):
    """Let a pause come between the first claim of an instance and its first turn."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.paused: asyncio.Future[list[Mail]] = asyncio.get_running_loop().create_future()
        self.is_looking = asyncio.Event()
        self.is_over = False

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Pass a call on; the first look at inboxes ends with the claim, and sees the pause."""
        if name == "mail" and not self.is_over:
            self.is_looking.set()
            mails = await self.paused
            self.is_over = True
            return mails
        result = await super().call(name, *args, **kwargs)
        if name == "claim" and result.claims and not self.paused.done():
            await self.inner.pause(result.claims[0].instance.id)
            self.paused.set_result(await self.inner.mail(args[0]))
        return result


@workflow(name="pausing_try")
async def try_receive_first() -> str | None:
    return letters.try_receive()


async def test_run_that_is_paused_before_its_first_turn_begins_with_what_has_come(
    make_app: MakeApp, shared: Storage
) -> None:
    storage = PausingStorage(shared)
    settings = {"poll_interval": timedelta(milliseconds=10)}
    async with (
        make_app(StorageProxy(shared).storage, worker=False) as client,
        make_app(storage.storage, **settings) as app,
    ):
        assert app.worker is not None
        app.worker.changed()
        await storage.is_looking.wait()
        handle = await client.start(try_receive_first(), id="one", delay=0.05)
        await handle.send(letters, "hello")
        while not storage.is_over or (await handle.info()).is_owned:
            await asyncio.sleep(0.002)
        assert await handle.history() == []
        await handle.unpause()
        assert await handle.result() == "hello"


async def test_paused_instance_stays_so_for_the_next_process(make_app: MakeApp, database: str) -> None:
    async with make_app(database) as app:
        handle = await app.start(receive(), id="one")
        await handle.pause()
    async with make_app(database) as app:
        handle = await app.get("one")
        await handle.send(letters, "hello")
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.1)
        await handle.unpause()
        assert await handle.result() == "hello"


async def test_paused_instance_is_cancelled_when_it_goes_on_and_terminated_at_once(make_app: MakeApp) -> None:
    async with make_app() as app:
        one, two = [await app.start(receive(), id=id) for id in ("one", "two")]
        for handle in (one, two):
            await handle.pause()
        await one.cancel("enough")
        await two.terminate()
        with pytest.raises(WorkflowTerminatedError):
            await two.result()
        assert await one.status() == "paused"
        await one.unpause()
        assert (await outcome_of(one)).startswith("WorkflowCancelledError")


@workflow(name="pausing_bug")
async def bug() -> None:
    raise NameError("bug")


async def test_pause_is_refused_where_it_means_nothing(make_app: MakeApp) -> None:
    async with make_app() as app:
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await app.pause("nobody")
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await app.unpause("nobody")
        done = await app.start(nap(), id="done")
        await done.result()
        with pytest.raises(InstanceClosedError, match="'done'"):
            await done.pause()
        with pytest.raises(InstanceClosedError, match="'done'"):
            await done.unpause()
        blocked = await app.start(bug(), id="blocked")
        with pytest.raises(WorkflowBlockedError):
            await blocked.result()
        with pytest.raises(WorkflowBlockedError, match="'blocked'"):
            await blocked.pause()


@activity(name="pausing_effect")
async def effect(name: str) -> str:
    act(name)
    return name


@workflow(name="pausing_sweep")
async def sweep_steps() -> list[str]:
    first = await effect("first")
    await echoes.send("echo", to="one")
    drawn = side_effect(lambda: "drawn")
    message = await letters.receive()
    return [first, drawn, await echoes.receive(), *await asyncio.gather(effect(message), effect("second"))]


async def play_pause(app: App) -> list[Any]:
    handle = await begin(app, sweep_steps, "one")
    with suppress(InstanceClosedError):  # an earlier process may have come further than it could say
        await insist(handle.pause)
        await insist(partial(app.send, letters, "third", to="one", message_id="m"))
        await insist(handle.unpause)
    return [await outcome_of(handle), await events_of(handle)]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_paused_run_goes_on_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([sweep_steps], play_pause), clock, hot_limit, fault=fault, is_mortal=is_mortal)
