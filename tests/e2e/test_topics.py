"""Publishing to topics, and receiving from them: broadcast and competing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import timedelta
from typing import Any, cast

import pytest

from romancy import (
    App,
    Channel,
    ChannelModeError,
    Handle,
    InstanceNotFoundError,
    activity,
    recur,
    sleep,
    workflow,
)

from .conftest import MakeApp
from .faults import Fault, OffsetClock, insist
from .sweep import Scenario, act, begin, events_of, outcome_of, sweep
from .tables import rows_of

pytestmark = pytest.mark.anyio

prices: Channel[int] = Channel("topics.prices", int)
jobs: Channel[str] = Channel("topics.jobs", str)
stop: Channel[None] = Channel("topics.stop", type(None))
letters: Channel[str] = Channel("topics.letters", str)

SOON = timedelta(milliseconds=20)


@workflow(name="topics_watch")
async def watch() -> list[int]:
    """Gather what is published, up to a zero."""
    seen: list[int] = []
    async with prices.subscribe() as subscription:
        async for price in subscription:
            if price == 0:
                return seen
            seen.append(price)
    raise AssertionError


@workflow(name="topics_work")
async def work() -> list[str]:
    """Take jobs, up to an "end"."""
    done: list[str] = []
    async with jobs.subscribe(mode="competing") as subscription:
        while (job := await subscription.receive()) != "end":
            done.append(job)
    return done


async def waiting(app: App, *ids: str) -> None:
    """Wait until instances wait for something, so that their subscriptions are open."""
    for id in ids:
        handle = await app.get(id)
        while not (info := await handle.info()).waiting_on or not any(
            event.kind == "subscribed" for event in await handle.history()
        ):
            assert info.closed_at is None, info
            await asyncio.sleep(0.002)


async def test_broadcast_reaches_every_subscriber_in_order_from_its_subscription_on(make_app: MakeApp) -> None:
    async with make_app() as app:
        await app.publish(prices, 1)  # nobody has subscribed: it is for nobody
        early = await app.start(watch(), id="early")
        await waiting(app, "early")
        for price in range(2, 10):
            await app.publish(prices, price)
        late = await app.start(watch(), id="late")
        await waiting(app, "late")
        for price in (*range(10, 20), 0):
            await app.publish(prices, price)
        assert await early.result() == list(range(2, 20))
        assert await late.result() == list(range(10, 20))


async def test_ten_waiters_get_a_thousand_competing_messages_once_each(make_app: MakeApp) -> None:
    async with make_app() as app:
        handles = [await app.start(work(), id=f"worker-{n}") for n in range(10)]
        await asyncio.gather(*(app.publish(jobs, f"job {n}") for n in range(1_000)))
        await asyncio.gather(*(app.publish(jobs, "end") for _ in range(10)))
        done = [await handle.result() for handle in handles]
    assert Counter(job for jobs_ in done for job in jobs_) == Counter(f"job {n}" for n in range(1_000))
    for jobs_ in done:
        assert len(jobs_) > 20  # all of them had a share


async def test_competing_messages_are_kept_for_whoever_subscribes_first(make_app: MakeApp) -> None:
    async with make_app() as app:
        for job in ("a", "b", "end"):
            await app.publish(jobs, job)
        assert await app.run(work()) == ["a", "b"]


@workflow(name="topics_hold")
async def hold() -> str:
    """Hold a subscription whose receive is given up when the message has come already, or has not."""
    async with jobs.subscribe(mode="competing") as subscription:
        receiving = asyncio.ensure_future(subscription.receive())
        await stop.receive()
        receiving.cancel()
    return "left"


@pytest.mark.parametrize("end", ["terminate", "leave", "cancel"])
async def test_holder_that_closes_gives_back_what_it_has_not_read(make_app: MakeApp, end: str) -> None:
    async with make_app() as app:
        holder = await app.start(hold(), id="holder")
        await waiting(app, "holder")
        await holder.pause()  # it is handed what comes next, and does not read it
        for job in ("a", "b", "end"):
            await app.publish(jobs, job)
        while not await rows_of(app.client.storage, "SELECT key FROM messages"):
            await asyncio.sleep(0.002)
        if end == "terminate":
            await holder.terminate()
        elif end == "leave":
            await holder.send(stop, None)
        else:
            await holder.cancel()
        if end != "terminate":
            await holder.unpause()
        done = await app.run(work(), id="worker")
        ended = await outcome_of(holder)
    if end == "terminate":
        assert ended.startswith("WorkflowTerminatedError(")
        assert done == ["a", "b"]
    else:  # the message came first: it was read
        assert ended == "'left'" if end == "leave" else ended.startswith("WorkflowCancelledError(")
        assert done == ["b"]


@workflow(name="topics_try")
async def try_jobs() -> str | None:
    async with jobs.subscribe(mode="competing") as subscription:
        with contextlib.suppress(TimeoutError):
            await subscription.receive(timeout=0.05)
        await stop.receive()
        return subscription.try_receive()
    raise AssertionError


async def test_receive_that_has_timed_out_leaves_the_next_message_to_others(make_app: MakeApp) -> None:
    async with make_app() as app:
        trying = await app.start(try_jobs(), id="trying")
        while "timer_fired" not in [event.kind for event in await trying.history()]:
            await asyncio.sleep(0.005)
        await app.publish(jobs, "a")
        await app.publish(jobs, "end")
        assert await app.run(work()) == ["a"]
        await trying.send(stop, None)
        assert await trying.result() is None


@workflow(name="topics_publish")
async def publish_prices(count: int) -> None:
    for price in range(1, count + 1):
        await prices.publish(price, headers={"number": str(price)})
    await prices.publish(0)


async def test_publications_of_a_workflow_reach_all_once(make_app: MakeApp) -> None:
    async with make_app() as app:
        watchers = [await app.start(watch(), id=f"watcher-{n}") for n in range(3)]
        await waiting(app, *(handle.id for handle in watchers))
        await app.run(publish_prices(5))
        assert [await handle.result() for handle in watchers] == [[1, 2, 3, 4, 5]] * 3


@workflow(name="topics_read_message")
async def read_message() -> list[Any]:
    async with prices.subscribe() as subscription:
        first = await subscription.receive_message()
        second = await subscription.receive_message()
    return [[m.value, m.id, m.sender, m.headers, m.time.tzinfo is not None] for m in (first, second)]


async def test_message_tells_its_id_sender_time_and_headers(make_app: MakeApp) -> None:
    async with make_app() as app:
        reader = await app.start(read_message(), id="reader")
        await waiting(app, "reader")
        await app.publish(prices, 7, message_id="seven", headers={"who": "me"})
        await app.publish(prices, 7, message_id="seven", headers={"who": "me again"})
        await app.start(publish_prices(1), id="publisher")
        first, second = await reader.result()
    assert first == [7, "seven", None, {"who": "me"}, True]
    assert second[0] == 1
    assert second[1]
    assert second[2:] == ["publisher", {"number": "1"}, True]


@workflow(name="topics_use")
async def use(way: str) -> str:
    try:
        match way:
            case "send":
                await prices.send(1, to="somebody")
            case "publish":
                await letters.publish("a")
            case "compete":
                async with prices.subscribe(mode="competing"):
                    pass
            case _:
                async with letters.subscribe():
                    pass
    except ChannelModeError as exc:
        return str(exc)
    return "no error"


async def test_channel_has_one_mode(make_app: MakeApp) -> None:
    async with make_app() as app:
        watcher = await app.start(watch(), id="watcher")
        await waiting(app, "watcher")
        other = await app.start(hold(), id="other")
        await waiting(app, "other")
        await app.send(letters, "a", to="watcher")
        assert "is a topic: publish to it" in await app.run(use("send"))
        assert "is used to send to instances directly" in await app.run(use("publish"))
        assert "is broadcast and can't be subscribed to as competing" in await app.run(use("compete"))
        assert "is direct and can't be subscribed to as broadcast" in await app.run(use("subscribe"))
        with pytest.raises(ChannelModeError, match="is a topic"):
            await app.send(prices, 1, to="watcher")
        with pytest.raises(ChannelModeError, match="directly"):
            await app.publish(letters, "b")
        await app.publish(prices, 0)
        assert await watcher.result() == []
        await other.send(stop, None)
        assert await other.result() == "left"


@workflow(name="topics_rounds")
async def rounds(number: int, seen: list[int]) -> list[int]:
    async with prices.subscribe() as subscription:
        seen = [*seen, await subscription.receive()]
        if number == 0:
            return seen
        recur(rounds(number - 1, seen))
    raise AssertionError


async def test_subscription_goes_on_through_recur_without_a_gap(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(rounds(9, []), id="rounds")
        await waiting(app, "rounds")
        await asyncio.gather(*(app.publish(prices, price) for price in range(10)))
        assert sorted(await handle.result()) == list(range(10))


async def test_many_subscribers_get_many_messages(make_app: MakeApp) -> None:
    """More than is handed out in one transaction."""
    async with make_app() as app:
        watchers = [await app.start(watch(), id=f"watcher-{n}") for n in range(120)]
        await waiting(app, *(handle.id for handle in watchers))
        for price in (*range(1, 10), 0):
            await app.publish(prices, price)
        for handle in watchers:
            assert await handle.result() == list(range(1, 10))


async def test_send_many_sends_all_or_none(make_app: MakeApp) -> None:
    async with make_app() as app:
        for id in ("a", "b"):
            await app.start(read_letter(), id=id)
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await app.send_many(letters, [("a", "lost"), ("nobody", "lost"), ("b", "lost")])
        await app.send_many(letters, [("a", "one"), ("b", "two")], message_id="m")
        await app.send_many(letters, [("a", "one"), ("b", "two")], message_id="m")
        assert [await (await app.get(id)).result() for id in ("a", "b")] == [["one", None], ["two", None]]


@workflow(name="topics_read_letter")
async def read_letter() -> list[str | None]:
    first = await letters.receive()
    await sleep(0.02)
    return [first, letters.try_receive()]


@workflow(name="topics_try_letters")
async def try_letters() -> list[Any]:
    before = letters.try_receive("nothing")
    await stop.receive()
    found = letters.try_receive_message()
    await sleep(0)
    return [before, found and found.value, found and found.headers, letters.try_receive(), letters.try_receive()]


async def test_try_receive_takes_what_is_there_and_does_not_wait(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(try_letters(), id="trying")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.002)
        await app.send(letters, "one", to="trying", headers={"a": "b"})
        await app.send(letters, "two", to="trying")
        await app.send(stop, None, to="trying")
        assert await handle.result() == ["nothing", "one", {"a": "b"}, "two", None]


@activity(name="topics_done")
async def done_with(job: str) -> None:
    act(job)


@workflow(name="topics_sweep_work")
async def sweep_work() -> list[str]:
    done: list[str] = []
    async with jobs.subscribe(mode="competing") as subscription:
        while (job := await subscription.receive()) != "end":
            await done_with(job)
            done.append(job)
    return done


@workflow(name="topics_sweep_publish")
async def sweep_publish() -> None:
    async with asyncio.TaskGroup() as group:
        for price in (1, 2, 3):
            group.create_task(prices.publish(price))
    await prices.publish(0)
    for job in ("a", "b"):
        await jobs.publish(job)


async def play_topics(app: App) -> list[Any]:
    watchers = [await begin(app, watch, f"watcher-{n}") for n in (1, 2)]
    workers = [await begin(app, sweep_work, f"worker-{n}") for n in (1, 2)]
    for handle in cast("list[Handle[Any]]", [*watchers, *workers]):
        while "subscribed" not in [event.kind for event in await insist(handle.history)]:
            await asyncio.sleep(0.005)
    publisher = await begin(app, sweep_publish, "publisher")
    await outcome_of(publisher)
    await insist(lambda: app.publish(jobs, "end", message_id="end 1"))
    await insist(lambda: app.publish(jobs, "end", message_id="end 2"))
    seen = [await outcome_of(handle) for handle in watchers]
    done = [await insist(handle.result) for handle in workers]
    return [seen, sorted(job for jobs_ in done for job in jobs_), await events_of(publisher)]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_topics_deliver_once_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([watch, sweep_work, sweep_publish], play_topics)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=20)
