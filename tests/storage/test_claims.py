"""Who may claim what, and in which order."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from romancy.core.clock import ManualClock
from romancy.core.records import Claims, Instance, Status
from romancy.errors import SessionLostError
from romancy.storage import sqlite_claims
from romancy.storage.protocol import Storage
from romancy.storage.sqlite import SqliteStorage

from .making import DEFINITION, SECOND, Worker, note, post

pytestmark = pytest.mark.anyio


async def claim(worker: Worker, *definitions: tuple[str, str], limit: int = 100) -> Claims:
    served = definitions or (DEFINITION,)
    return await worker.storage.claim(worker.session, served, worker.build, limit=limit)


async def prioritise(storage: Storage, instance: Instance, priority: int) -> None:
    assert isinstance(storage, SqliteStorage)
    statement = "UPDATE instances SET priority = ? WHERE key = ?"
    await storage._writer.write(lambda c: c.execute(statement, (priority, instance.key)).close())


async def block(worker: Worker, id: str) -> Instance:
    return await worker.advance(
        await worker.own(id),
        status=Status.BLOCKED,
        wake_at=worker.clock.now(),
        is_freed=True,
        reason=b"{}",
        build=worker.build,
    )


async def test_claim_takes_a_pending_instance(worker: Worker, clock: ManualClock) -> None:
    created = await worker.create()
    clock.advance(2)
    (taken,) = (await claim(worker)).claims
    assert taken.instance == msgspec.structs.replace(
        created,
        session=worker.session,
        status=Status.RUNNING,
        started_at=clock.now(),
        runtime="here",
        begun_by=worker.build,
    )
    assert (taken.history, taken.inbox) == ([], [])
    assert await worker.read(created.id) == taken.instance


async def test_claim_keeps_when_a_run_has_started(worker: Worker, clock: ManualClock) -> None:
    owned = await worker.advance(await worker.own(), note(), is_freed=True)
    clock.advance(2)
    (taken,) = (await claim(worker)).claims
    assert taken.instance.started_at == owned.started_at


async def test_claim_skips_what_is_owned(worker: Worker, storage: Storage) -> None:
    await worker.own()
    other = await Worker.start(storage, worker.clock)
    assert await claim(other) == await claim(worker) == Claims([], None)


async def test_claim_skips_what_is_not_due(worker: Worker, clock: ManualClock) -> None:
    await worker.create(wake_at=clock.now() + 2 * SECOND)
    await worker.create(wake_at=clock.now() + SECOND)
    assert await claim(worker) == Claims([], clock.now() + SECOND)
    clock.advance(1)
    found = await claim(worker)
    assert (len(found.claims), found.next_due) == (1, clock.now() + SECOND)


async def test_claim_skips_what_has_ended(worker: Worker) -> None:
    await worker.close(await worker.own())
    assert await claim(worker) == Claims([], None)


async def test_claim_skips_what_only_its_inbox_wakes(worker: Worker) -> None:
    await worker.advance(await worker.own(), note(), wake_at=None, is_freed=True)
    assert await claim(worker) == Claims([], None)


async def test_claim_takes_served_definitions_alone(worker: Worker, clock: ManualClock) -> None:
    await worker.create("a1", workflow="a", version="1")
    await worker.create("a2", workflow="a", version="2")
    await worker.create("b1", workflow="b", version="1")
    await worker.create("b2", workflow="b", version="2", wake_at=clock.now() + SECOND)
    found = await claim(worker, ("a", "2"), ("b", "1"), ("c", "1"), ("a", "2"))
    assert ([c.instance.id for c in found.claims], found.next_due) == (["a2", "b1"], None)
    assert await claim(worker, ("b", "2")) == Claims([], clock.now() + SECOND)


async def test_claim_without_definitions_finds_nothing(worker: Worker, storage: Storage) -> None:
    await worker.create()
    assert await storage.claim(worker.session, [], "build", limit=1) == Claims([], None)


async def test_claim_takes_the_longest_due_first(worker: Worker, clock: ManualClock) -> None:
    now = clock.now()
    for id, wake_at in (("third", now - 1), ("first", now - 3), ("second", now - 2), ("fourth", now - 1)):
        await worker.create(id, wake_at=wake_at)
    found = await claim(worker)
    assert [c.instance.id for c in found.claims] == ["first", "second", "third", "fourth"]


async def test_claim_orders_across_definitions_and_blocked_ones(
    worker: Worker, storage: Storage, clock: ManualClock
) -> None:
    await block(worker, "1")
    for id, workflow in (("2", "a"), ("3", "b"), ("4", "a")):
        clock.advance(1)
        await worker.create(id, workflow=workflow)
    fixed = await Worker.start(storage, clock, build="fixed")
    found = await claim(fixed, ("a", "1"), ("b", "1"), DEFINITION)
    assert [c.instance.id for c in found.claims] == ["1", "2", "3", "4"]


async def test_claim_puts_priority_before_age(worker: Worker, storage: Storage, clock: ManualClock) -> None:
    for id, workflow, priority in (
        ("low", "a", -1),
        ("normal", "a", 0),
        ("high", "b", 5),
        ("higher", "a", 7),
        ("low too", "b", -1),
        ("asleep", "a", 9),
    ):
        clock.advance(1)
        created = await worker.create(id, workflow=workflow)
        await prioritise(storage, created, priority)
    assert isinstance(storage, SqliteStorage)
    later = clock.now() + SECOND
    await storage._writer.write(
        lambda c: c.execute("UPDATE instances SET wake_at = ? WHERE id = 'asleep'", (later,)).close()
    )
    served = ("a", "1"), ("b", "1")
    assert [c.instance.id for c in (await claim(worker, *served, limit=3)).claims] == [
        "higher",
        "high",
        "normal",
    ]
    found = await claim(worker, *served)
    assert ([c.instance.id for c in found.claims], found.next_due) == (["low", "low too"], later)


async def test_claim_stops_at_the_limit_and_says_that_more_are_due(worker: Worker, clock: ManualClock) -> None:
    for _ in range(5):
        await worker.create()
    await worker.create(wake_at=clock.now() + SECOND)
    first = await claim(worker, limit=2)
    assert (len(first.claims), first.next_due) == (2, clock.now())
    second = await claim(worker, limit=3)
    assert (len(second.claims), second.next_due) == (3, clock.now() + SECOND)


async def test_claim_brings_the_whole_inbox_and_counts_it_as_seen(worker: Worker, storage: Storage) -> None:
    owned = await worker.own("x")
    await storage.post([post("x", "m1")])
    await worker.advance(owned, inbox_seen=1, wake_at=None, is_freed=True)
    await storage.post([post("x", "m2")])
    (taken,) = (await claim(worker)).claims
    assert [item.message_id for item in taken.inbox] == ["m1", "m2"]
    assert (taken.instance.inbox_seq, taken.instance.inbox_seen) == (2, 2)
    assert await storage.mail(worker.session) == []


async def test_claim_leaves_wake_at_in_the_past(worker: Worker, clock: ManualClock) -> None:
    created = await worker.create()
    clock.advance(5)
    (taken,) = (await claim(worker)).claims
    assert taken.instance.wake_at == created.wake_at


async def test_claim_of_an_expired_session(worker: Worker, clock: ManualClock) -> None:
    created = await worker.create()
    clock.advance(10)
    with pytest.raises(SessionLostError):
        await claim(worker)
    assert await worker.read(created.id) == created


class TestBlocked:
    async def test_the_build_that_blocked_does_not_see_it(self, worker: Worker, storage: Storage) -> None:
        await block(worker, "x")
        assert await claim(worker) == Claims([], None)
        same = await Worker.start(storage, worker.clock, build=worker.build)
        assert await claim(same) == Claims([], None)

    @pytest.mark.parametrize("build", ["", "a", "builc", "builds", "z"])
    async def test_another_build_takes_it_at_once(self, worker: Worker, storage: Storage, build: str) -> None:
        await block(worker, "x")
        fixed = await Worker.start(storage, worker.clock, build=build)
        (taken,) = (await claim(fixed)).claims
        assert (taken.instance.status, taken.instance.reason, taken.instance.build) == (
            Status.RUNNING,
            None,
            worker.build,
        )

    async def test_another_build_waits_until_it_is_due(self, worker: Worker, storage: Storage) -> None:
        instance = await block(worker, "x")
        fixed = await Worker.start(storage, worker.clock, build="fixed")
        (taken,) = (await claim(fixed)).claims
        later = fixed.clock.now() + 5_000_000
        entry = fixed.entry(
            taken.instance, status=Status.BLOCKED, wake_at=later, is_freed=True, reason=b"{}", build="c"
        )
        await fixed.accepted(entry)
        assert (await claim(worker)).claims == []
        worker.clock.advance(5)
        (again,) = (await claim(worker)).claims
        assert again.instance.key == instance.key

    async def test_another_build_must_serve_it(self, worker: Worker, storage: Storage) -> None:
        await block(worker, "x")
        fixed = await Worker.start(storage, worker.clock, build="fixed")
        assert await claim(fixed, ("order", "2")) == Claims([], None)

    async def test_priority_goes_before_age(self, worker: Worker, storage: Storage) -> None:
        await block(worker, "old")
        worker.clock.advance(1)
        await prioritise(storage, await block(worker, "urgent"), 5)
        fixed = await Worker.start(storage, worker.clock, build="fixed")
        for expected in ("urgent", "old"):
            assert [c.instance.id for c in (await claim(fixed, limit=1)).claims] == [expected]

    async def test_it_counts_towards_the_limit(self, worker: Worker, storage: Storage) -> None:
        await block(worker, "x")
        await block(worker, "y")
        fixed = await Worker.start(storage, worker.clock, build="fixed")
        found = await claim(fixed, limit=1)
        assert ([c.instance.id for c in found.claims], found.next_due) == (["x"], worker.clock.now())


CROWDS: dict[str, str] = {
    "asleep": f"wake_at = {2**60}",
    "waiting for mail": "status = 1, wake_at = NULL",
    "of another definition": "workflow = 'another', wake_at = 0",
    "of many priorities, asleep": f"priority = key % 3, wake_at = {2**60}",
    "blocked by this build": "status = 3, build = 'build'",
    "blocked, of another definition": "status = 3, workflow = 'another'",
    "paused": "status = 2",
    "owned by another": "status = 1, session = 1000",
    "ended": "status = 10, wake_at = NULL",
}


@pytest.mark.parametrize("crowd", CROWDS)
async def test_idle_worker_costs_the_same_among_instances_that_do_not_concern_it(
    worker: Worker, storage: Storage, crowd: str
) -> None:
    assert isinstance(storage, SqliteStorage)
    writer = storage._writer

    async def work() -> int:
        """Do what an idle worker does; return how many instructions of SQLite's machine that took."""
        steps = itertools.count()
        await writer.read(lambda c: c.set_progress_handler(lambda: next(steps) and None, 1))
        assert await claim(worker) == Claims([], None) or "asleep" in crowd
        await writer.read(lambda c: sqlite_claims.mail(c, worker.session))
        await storage.reap_sessions()
        await storage.block_unserved(due_before=0)
        await storage.commit(worker.session, [])
        await writer.read(lambda c: c.set_progress_handler(None, 1))
        return next(steps)

    async def make(count: int) -> None:
        await asyncio.gather(*(worker.create(wake_at=2**59) for _ in range(count)))
        await writer.write(lambda c: c.execute(f"UPDATE instances SET {CROWDS[crowd]}").close())

    await make(10)
    few = await work()
    await make(1000)
    assert await work() < 1.2 * few


async def test_two_workers_never_claim_the_same(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    for _ in range(200):
        await one.create()

    keys: list[int] = []
    while len(keys) < 200:
        mine, theirs = await asyncio.gather(claim(one, limit=7), claim(other, limit=7))
        assert mine.claims or theirs.claims
        for worker, found in ((one, mine), (other, theirs)):
            assert all(c.instance.session == worker.session for c in found.claims)
            keys += [c.instance.key for c in found.claims]
    assert len(set(keys)) == len(keys) == 200


async def test_a_worker_takes_what_another_has_freed(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    owned = await one.own()
    assert (await claim(other)).claims == []
    await one.advance(owned, note(), is_freed=True)
    (taken,) = (await claim(other)).claims
    assert [e.activity_id for e in taken.history] == ["1:charge"]
