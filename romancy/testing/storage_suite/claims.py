"""Who may claim what, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from romancy.core.records import Claims, Status
from romancy.errors import SessionLostError
from romancy.testing.storage_suite.making import DEFINITION, MINUTE, Worker, about, note, outlive, post
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock


class ClaimsSuite(Suite):
    """What is due has one owner at a time, in the order of priority and age."""

    async def test_claim_takes_a_pending_instance(self, worker: Worker, clock: AdjustableClock) -> None:
        created = await worker.create()
        clock.advance(2 * MINUTE)
        (taken,) = (await worker.claim()).claims
        assert taken.instance == msgspec.structs.replace(
            created,
            session=worker.session,
            status=Status.RUNNING,
            started_at=taken.instance.started_at,
            runtime="here",
            begun_by=worker.build,
        )
        assert taken.instance.started_at == about(clock.now())
        assert (taken.history, taken.inbox, taken.is_first) == ([], [], True)
        assert await worker.read(created.id) == taken.instance

    async def test_claim_keeps_when_a_run_has_started(self, worker: Worker, clock: AdjustableClock) -> None:
        owned = await worker.advance(await worker.own(), note(), is_freed=True)
        clock.advance(2 * MINUTE)
        (taken,) = (await worker.claim()).claims
        assert taken.instance.started_at == owned.started_at
        assert not taken.is_first

    async def test_claim_skips_what_is_owned(self, worker: Worker, storage: Storage) -> None:
        await worker.own()
        other = await Worker.start(storage, worker.clock)
        assert await other.claim() == await worker.claim() == Claims([], None)

    async def test_claim_skips_what_is_not_due(self, worker: Worker, clock: AdjustableClock) -> None:
        later = await worker.create(wake_at=worker.at(3))
        sooner = await worker.create(wake_at=worker.at(1))
        assert await worker.claim() == Claims([], sooner.wake_at)
        clock.advance(2 * MINUTE)
        found = await worker.claim()
        assert ([c.instance.id for c in found.claims], found.next_due) == ([sooner.id], later.wake_at)

    async def test_claim_skips_what_has_ended(self, worker: Worker) -> None:
        await worker.close(await worker.own())
        assert await worker.claim() == Claims([], None)

    async def test_claim_skips_what_only_its_inbox_wakes(self, worker: Worker) -> None:
        await worker.advance(await worker.own(), note(), wake_at=None, is_freed=True)
        assert await worker.claim() == Claims([], None)

    async def test_claim_takes_served_definitions_alone(self, worker: Worker, clock: AdjustableClock) -> None:
        await worker.create("a1", workflow="a", version="1")
        await worker.create("a2", workflow="a", version="2")
        await worker.create("b1", workflow="b", version="1")
        later = await worker.create("b2", workflow="b", version="2", wake_at=worker.at(1))
        found = await worker.claim(("a", "2"), ("b", "1"), ("c", "1"), ("a", "2"))
        assert ([c.instance.id for c in found.claims], found.next_due) == (["a2", "b1"], None)
        assert await worker.claim(("b", "2")) == Claims([], later.wake_at)

    async def test_claim_without_definitions_finds_nothing(self, worker: Worker, storage: Storage) -> None:
        await worker.create()
        assert await storage.claim(worker.session, [], "build", limit=1) == Claims([], None)

    async def test_claim_takes_the_longest_due_first(self, worker: Worker, clock: AdjustableClock) -> None:
        now = worker.at(-1)
        for id, wake_at in (("third", now - 1), ("first", now - 3), ("second", now - 2), ("fourth", now - 1)):
            await worker.create(id, wake_at=wake_at)
        found = await worker.claim()
        assert [c.instance.id for c in found.claims] == ["first", "second", "third", "fourth"]

    async def test_claim_orders_across_definitions_and_blocked_ones(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        await worker.block("1")
        for id, workflow in (("2", "a"), ("3", "b"), ("4", "a")):
            clock.advance(MINUTE)
            await worker.create(id, workflow=workflow)
        fixed = await Worker.start(storage, clock, build="fixed")
        found = await fixed.claim(("a", "1"), ("b", "1"), DEFINITION)
        assert [c.instance.id for c in found.claims] == ["1", "2", "3", "4"]

    async def test_claim_puts_priority_before_age(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        later = worker.at(30)
        for id, workflow, priority in (
            ("low", "a", -1),
            ("normal", "a", 0),
            ("high", "b", 5),
            ("higher", "a", 7),
            ("low too", "b", -1),
        ):
            clock.advance(MINUTE)
            await worker.create(id, workflow=workflow, priority=priority)
        await worker.create("asleep", workflow="a", priority=9, wake_at=later)
        served = ("a", "1"), ("b", "1")
        assert [c.instance.id for c in (await worker.claim(*served, limit=3)).claims] == [
            "higher",
            "high",
            "normal",
        ]
        found = await worker.claim(*served)
        assert ([c.instance.id for c in found.claims], found.next_due) == (["low", "low too"], later)

    async def test_claim_stops_at_the_limit_and_says_that_more_are_due(
        self, worker: Worker, clock: AdjustableClock
    ) -> None:
        for _ in range(5):
            await worker.create()
        later = await worker.create(wake_at=worker.at(1))
        first = await worker.claim(limit=2)
        assert (len(first.claims), first.next_due) == (2, about(clock.now()))
        second = await worker.claim(limit=3)
        assert (len(second.claims), second.next_due) == (3, later.wake_at)

    async def test_claim_brings_the_whole_inbox_and_counts_it_as_seen(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.post([post("x", "m1")])
        await worker.advance(owned, inbox_seen=1, wake_at=None, is_freed=True)
        await storage.post([post("x", "m2")])
        (taken,) = (await worker.claim()).claims
        assert [item.message_id for item in taken.inbox] == ["m1", "m2"]
        assert (taken.instance.inbox_seq, taken.instance.inbox_seen) == (2, 2)
        assert await storage.mail(worker.session) == []

    async def test_claim_leaves_wake_at_in_the_past(self, worker: Worker, clock: AdjustableClock) -> None:
        created = await worker.create()
        clock.advance(5 * MINUTE)
        (taken,) = (await worker.claim()).claims
        assert taken.instance.wake_at == created.wake_at

    async def test_claim_of_an_expired_session(self, worker: Worker, clock: AdjustableClock) -> None:
        created = await worker.create()
        outlive(clock)
        with pytest.raises(SessionLostError):
            await worker.claim()
        assert await worker.read(created.id) == created

    async def test_claim_by_the_build_that_blocked_finds_nothing(self, worker: Worker, storage: Storage) -> None:
        await worker.block("x")
        assert await worker.claim() == Claims([], None)
        same = await Worker.start(storage, worker.clock, build=worker.build)
        assert await same.claim() == Claims([], None)

    @pytest.mark.parametrize("build", ["", "a", "builc", "builds", "z"])
    async def test_claim_by_another_build_takes_what_is_blocked(
        self, worker: Worker, storage: Storage, build: str
    ) -> None:
        await worker.block("x")
        fixed = await Worker.start(storage, worker.clock, build=build)
        (taken,) = (await fixed.claim()).claims
        assert (taken.instance.status, taken.instance.reason, taken.instance.build) == (
            Status.RUNNING,
            None,
            worker.build,
        )

    async def test_claim_of_what_is_blocked_waits_until_it_is_due(self, worker: Worker, storage: Storage) -> None:
        instance = await worker.block("x", minutes=5)
        fixed = await Worker.start(storage, worker.clock, build="fixed")
        found = await fixed.claim()
        assert found.claims == []
        worker.clock.advance(6 * MINUTE)
        (again,) = (await fixed.claim()).claims
        assert again.instance.key == instance.key

    async def test_claim_by_another_build_must_serve_what_is_blocked(self, worker: Worker, storage: Storage) -> None:
        await worker.block("x")
        fixed = await Worker.start(storage, worker.clock, build="fixed")
        assert await fixed.claim(("order", "2")) == Claims([], None)

    async def test_claim_of_what_is_blocked_puts_priority_before_age(self, worker: Worker, storage: Storage) -> None:
        await worker.block("old")
        worker.clock.advance(MINUTE)
        await worker.block("urgent", priority=5)
        fixed = await Worker.start(storage, worker.clock, build="fixed")
        for expected in ("urgent", "old"):
            assert [c.instance.id for c in (await fixed.claim(limit=1)).claims] == [expected]

    async def test_claim_of_what_is_blocked_counts_towards_the_limit(self, worker: Worker, storage: Storage) -> None:
        await worker.block("x")
        await worker.block("y")
        fixed = await Worker.start(storage, worker.clock, build="fixed")
        found = await fixed.claim(limit=1)
        assert ([c.instance.id for c in found.claims], found.next_due) == (["x"], about(worker.clock.now()))
