"""No wake-up is lost, and what arrives together is released in one order, live and on replay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest

from romancy import App, Channel, activity, sleep, workflow
from romancy.core.records import Entry, InboxKind, Post, PostResult
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import MeddlingStorage, OffsetClock, StorageProxy

pytestmark = pytest.mark.anyio

INTERLEAVINGS = 1_000
_NEVER = timedelta(hours=1)

letters = Channel("wakeup_letters", str)
confirmations = Channel("wakeup_confirmations", str)
may_end = asyncio.Event()
begun = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global begun, may_end
    begun, may_end = asyncio.Event(), asyncio.Event()


@activity
async def wakeup_nothing() -> None:
    """End at once."""


@activity
async def wakeup_slow() -> None:
    begun.set()
    await may_end.wait()


@activity
async def wakeup_message_first(order: list[str]) -> list[str]:
    return order


@activity
async def wakeup_timer_first(order: list[str]) -> list[str]:
    return order


@workflow
async def wait_for_letters(count: int) -> list[str]:
    return [await letters.receive() for _ in range(count)]


@workflow
async def sleep_first() -> str:
    await sleep(0.05)
    return "awake"


@workflow
async def work_then_wait() -> str:
    await wakeup_nothing()
    return await letters.receive()


@workflow
async def letter_or_timer() -> list[str]:
    order: list[str] = []

    async def wait_for_letter() -> None:
        order.append(await letters.receive())

    async def wait_for_timer() -> None:
        await asyncio.sleep(10)
        order.append("timer")

    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_letter())
        group.create_task(wait_for_timer())
        await wakeup_slow()
    # Another activity for either order: a replay that disagrees is found out here.
    noted = await (wakeup_timer_first if order[0] == "timer" else wakeup_message_first)(order)
    assert await confirmations.receive() == "confirmed"
    return noted


@workflow
async def letter_in_time() -> str:
    try:
        async with asyncio.timeout(10):
            return await letters.receive()
    except TimeoutError:
        await wakeup_nothing()
        return f"late: {await letters.receive()}"


def post(to: str, body: str, message_id: str) -> Post:
    return Post(to, InboxKind.MESSAGE, letters.name, msgspec.json.encode(body), message_id)


async def test_message_posted_during_a_commit_wakes_the_run(shared: Storage, hot_limit: int) -> None:
    """Post right before, beside, or right after the very commit that parks a run, a thousand times."""
    waiting: dict[int, int] = {}
    posting: list[asyncio.Task[list[PostResult]]] = []

    def strike(entries: Sequence[Entry], way: int) -> list[asyncio.Task[list[PostResult]]]:
        parking = [entry.key for entry in entries if entry.wake_at is None and not entry.status.is_closed]
        struck = [waiting.pop(key) for key in parking if key in waiting and waiting[key] % 3 == way]
        posts = [asyncio.create_task(shared.post([post(f"{n}", f"to {n}", "only")])) for n in struck]
        posting.extend(posts)
        return posts

    async def before(entries: Sequence[Entry]) -> None:
        await asyncio.gather(*strike(entries, 0))
        strike(entries, 1)

    async def after(entries: Sequence[Entry]) -> None:
        await asyncio.gather(*strike(entries, 2))

    async with App(StorageProxy(shared).storage, worker=False) as client:
        handles = [await client.start(work_then_wait(), id=f"{n}") for n in range(INTERLEAVINGS)]
        for handle in handles:
            row = await shared.get(handle.id)
            assert row is not None
            waiting[row.key] = int(handle.id)
        async with App(
            MeddlingStorage(shared, before=before, after=after).storage,
            workflows=[work_then_wait],
            hot_limit=hot_limit,
            poll_interval=timedelta(milliseconds=50),
        ) as app:
            ends = [await app.get(handle.id) for handle in handles]
            results = await asyncio.gather(*(handle.result() for handle in ends))
    assert results == [f"to {n}" for n in range(INTERLEAVINGS)]
    assert not waiting
    assert [task.result() for task in posting] == [[PostResult.POSTED]] * INTERLEAVINGS


async def test_message_posted_during_a_commit_needs_no_polling(shared: Storage, hot_limit: int) -> None:
    """What a commit can know of, it tells: nothing here is found by looking now and then."""
    sent: set[int] = set()

    async def before(entries: Sequence[Entry]) -> None:
        for entry in entries:
            received = entry.seq + len(entry.notes)
            if received not in sent and not entry.status.is_closed:
                sent.add(received)
                await shared.post([post("one", f"{received}", f"{received}")])

    meddling = MeddlingStorage(shared, before=before)
    async with App(meddling.storage, workflows=[wait_for_letters], hot_limit=hot_limit, poll_interval=_NEVER) as app:
        assert await app.run(wait_for_letters(100), id="one") == [f"{n}" for n in range(100)]


async def test_message_of_another_process_wakes_a_waiting_run_quickly(database: str, hot_limit: int) -> None:
    async with (
        App(database, workflows=[wait_for_letters], hot_limit=hot_limit, poll_interval=_NEVER) as app,
        App(database, worker=False) as other,
    ):
        handle = await app.start(wait_for_letters(20), id="one")
        for n in range(20):
            await other.send(letters, f"{n}", to="one")
        assert await handle.result() == [f"{n}" for n in range(20)]


@pytest.mark.parametrize("is_message_first", [True, False], ids=["message-first", "timer-first"])
async def test_message_and_due_timer_that_a_claim_finds_agree_on_replay(
    shared: Storage, clock: OffsetClock, make_app: MakeApp, is_message_first: bool
) -> None:
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        await app.start(letter_or_timer(), id="one")
        await begun.wait()
        may_end.set()
        await parked(shared, "one")
    clock.advance(5 if is_message_first else 15)
    async with App(StorageProxy(shared).storage, worker=False, clock=clock) as client:
        await client.send(letters, "letter", to="one")
    clock.advance(10)
    await both_released(make_app, shared, clock, is_message_first=is_message_first)


@pytest.mark.parametrize("is_message_first", [True, False], ids=["message-first", "timer-first"])
async def test_message_and_due_timer_in_one_batch_agree_on_replay(
    shared: Storage, clock: OffsetClock, make_app: MakeApp, is_message_first: bool
) -> None:
    is_held, may_commit = asyncio.Event(), asyncio.Event()
    key = -1

    async def hold(entries: Sequence[Entry]) -> None:
        if any(entry.key == key and entry.notes for entry in entries) and not is_held.is_set():
            is_held.set()
            await may_commit.wait()

    async with make_app(MeddlingStorage(shared, before=hold).storage, clock=clock, session_ttl=_NEVER) as app:
        await app.start(letter_or_timer(), id="one")
        await begun.wait()
        row = await shared.get("one")
        assert row is not None
        key = row.key
        may_end.set()
        await is_held.wait()
        worker = app.worker
        assert worker is not None
        run = worker._hot.get(key)
        assert run is not None
        # While the activity's result is being committed, both come: the next turn takes them together.
        clock.advance(5 if is_message_first else 15)
        await shared.post([post("one", "letter", "only")])
        worker.changed()
        while not run.arrivals:
            await asyncio.sleep(0)
        clock.advance(10)
        may_commit.set()
        while (found := await shared.get("one")) is None or found.next_seq < 4:
            await asyncio.sleep(0.001)
        events = await (await app.get("one")).history()
    pair = [event.kind for event in events if event.kind in {"timer_fired", "message_received"}]
    assert pair == (["message_received", "timer_fired"] if is_message_first else ["timer_fired", "message_received"])
    assert len({event.turn for event in events if event.kind in {"timer_fired", "message_received"}}) == 1
    await both_released(make_app, shared, clock, is_message_first=is_message_first)


async def both_released(make_app: MakeApp, shared: Storage, clock: OffsetClock, *, is_message_first: bool) -> None:
    """Let the run go on in one process, and replay it in the next."""
    expected = ["letter", "timer"] if is_message_first else ["timer", "letter"]
    async with make_app(StorageProxy(shared).storage, clock=clock):
        await parked(shared, "one")
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        await app.send(confirmations, "confirmed", to="one")
        handle = await app.get("one")
        assert await handle.result() == expected
        kinds = [event.kind for event in await handle.history()]
    released = [kind for kind in kinds if kind in {"timer_fired", "message_received"}]
    assert released[0] == ("message_received" if is_message_first else "timer_fired")


async def parked(storage: Storage, id: str) -> None:
    """Wait until an instance waits for a confirmation or a letter, and nothing of it is under way."""
    while True:
        row = await storage.get(id)
        if row is not None and b'"receive"' in (row.waiting_on or b"") and b'"activity"' not in (row.waiting_on or b""):
            channel = confirmations if row.next_seq > 2 else letters
            if channel.name.encode() in (row.waiting_on or b""):
                return
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("is_in_time", [True, False], ids=["in-time", "late"])
async def test_message_at_about_the_deadline_is_neither_lost_nor_taken_twice(
    shared: Storage, clock: OffsetClock, make_app: MakeApp, is_in_time: bool
) -> None:
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        await app.start(letter_in_time(), id="one")
        await parked(shared, "one")
    clock.advance(5 if is_in_time else 15)
    async with App(StorageProxy(shared).storage, worker=False, clock=clock) as client:
        await client.send(letters, "letter", to="one")
    clock.advance(10)
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        assert await (await app.get("one")).result() == ("letter" if is_in_time else "late: letter")


async def test_run_that_begins_with_a_sleep_wakes(make_app: MakeApp) -> None:
    """Nothing is recorded of it when it leaves memory: it begins anew, and its timer is due by then."""
    async with make_app() as app:
        assert await app.run(sleep_first(), timeout=5) == "awake"
