"""Subscriptions that are entered, left and used in unusual ways: none stays open, and none takes a message with it."""

from __future__ import annotations

import asyncio

import pytest

from romancy import Channel, WorkflowFailedError, workflow
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import StorageProxy
from .tables import rows_of

pytestmark = pytest.mark.anyio

news: Channel[int] = Channel("subscriptions.news", int)
jobs: Channel[str] = Channel("subscriptions.jobs", str)
stop: Channel[None] = Channel("subscriptions.stop", type(None))
letters: Channel[str] = Channel("subscriptions.letters", str)


@workflow(name="subscriptions_take")
async def take() -> str:
    async with jobs.subscribe(mode="competing") as subscription:
        return await subscription.receive()


@workflow(name="subscriptions_late")
async def receive_late(way: str) -> str:
    """Await a receive behind the block that it was made in."""
    async with jobs.subscribe(mode="competing") as subscription:
        late = subscription.receive()
        receiving = asyncio.ensure_future(late) if way == "task" else late
    try:
        return await asyncio.wait_for(receiving, 3600)
    except RuntimeError as exc:
        return str(exc)


@pytest.mark.parametrize("way", ["task", "call"])
async def test_receive_behind_its_block_is_refused_and_takes_no_message(make_app: MakeApp, way: str) -> None:
    async with make_app() as app:
        late = await app.start(receive_late(way), id="late")
        while "subscribed" not in [event.kind for event in await late.history()]:
            await asyncio.sleep(0.002)
        await app.publish(jobs, "a")
        assert await app.run(take()) == "a"
        assert "subscription to channel 'subscriptions.jobs' was closed" in await late.result()


@workflow(name="subscriptions_enter_twice")
async def enter_twice() -> list[str]:
    subscription = jobs.subscribe(mode="competing")
    entered = await asyncio.gather(subscription.__aenter__(), subscription.__aenter__(), return_exceptions=True)
    await subscription.__aexit__(None, None, None)
    await stop.receive()
    return [type(found).__name__ for found in entered]


async def test_subscription_is_entered_once_even_at_the_same_time(make_app: MakeApp, shared: Storage) -> None:
    async with make_app(StorageProxy(shared).storage) as app:
        handle = await app.start(enter_twice(), id="one")
        while "subscribed" not in [event.kind for event in await handle.history()]:
            await asyncio.sleep(0.002)
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.002)
        assert await rows_of(shared, "SELECT * FROM subscriptions") == []
        await handle.send(stop, None)
        assert await handle.result() == ["Subscription", "RuntimeError"]


@workflow(name="subscriptions_send_at_once")
async def send_at_once() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(letters.send("a", to="nobody"))
        group.create_task(news.publish(1))
        group.create_task(news.subscribe().__aenter__())


async def test_run_that_a_failed_send_ends_fails_though_more_was_asked_for(make_app: MakeApp, shared: Storage) -> None:
    async with make_app(StorageProxy(shared).storage) as app:
        with pytest.raises(WorkflowFailedError, match="unhandled errors in a TaskGroup"):
            await app.run(send_at_once())
        assert await rows_of(shared, "SELECT * FROM subscriptions") == []
