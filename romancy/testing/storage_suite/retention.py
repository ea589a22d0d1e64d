"""What is removed when it has been kept for long enough."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from romancy.core.records import Instance, NextRun, PostResult, Publication
from romancy.core.requests import ChannelMode, Subscribe
from romancy.testing.storage_suite.making import DEFINITION, MINUTE, RECURRING, Worker, about, note, outlive, post
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

WEEK = timedelta(days=7)


async def prune(storage: Storage, limit: int = 100) -> int:
    """Remove what is older than a week."""
    return await storage.prune(archives=WEEK, deliveries=WEEK, limit=limit)


async def recur(worker: Worker, instance: Instance) -> Instance:
    """Close an instance's run with two more events, and open the next."""
    return await worker.advance(instance, note(), RECURRING, next_run=NextRun(*DEFINITION, b"[2]"))


class RetentionSuite(Suite):
    """What has been kept for long enough is removed, the oldest first, a little at a time."""

    async def test_ids_of_messages_are_forgotten_after_their_time(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        await worker.own("target")
        publication = Publication("news", b'"hello"', "m")
        assert await storage.post([post("target", "m")]) == [PostResult.POSTED]
        assert await storage.publish([publication]) == [PostResult.POSTED]
        clock.advance(WEEK.total_seconds() - 5 * MINUTE)
        assert await prune(storage) == 0
        assert await storage.post([post("target", "m")]) == [PostResult.DUPLICATE]
        assert await storage.publish([publication]) == [PostResult.DUPLICATE]
        clock.advance(6 * MINUTE)
        assert await prune(storage) == 3  # two ids, and a message that nobody has subscribed to
        assert await storage.post([post("target", "m")]) == [PostResult.POSTED]
        assert await storage.publish([publication]) == [PostResult.POSTED]

    async def test_at_most_so_many_rows_are_removed_at_a_time(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        await storage.publish([Publication("news", b"1", str(number)) for number in range(5)])
        outlive(clock, WEEK)
        removed = [await prune(storage, limit=3) for _ in range(5)]
        assert removed == [3, 3, 3, 1, 0]

    async def test_messages_that_wait_for_competing_subscribers_are_kept(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        """Work that was accepted is not thrown away because nobody takes it."""
        one = await worker.own("one")
        await worker.advance(one, requests=[Subscribe("1:jobs", "jobs", ChannelMode.COMPETING)])
        await storage.publish([Publication("jobs", b"1", "m")])
        outlive(clock, WEEK)
        assert await prune(storage) == 1  # its id
        assert await prune(storage) == 0

    async def test_histories_of_closed_runs_are_removed_after_their_time(
        self, worker: Worker, storage: Storage, clock: AdjustableClock, database: Database
    ) -> None:
        old, closed_at = await recur(worker, await worker.own("x")), clock.now()
        outlive(clock)
        worker = await Worker.start(storage, clock)
        await storage.reap_sessions()
        (claim,) = await worker.claim_all()
        new = await recur(worker, claim.instance)
        kept = await storage.kept_runs(new.key, before=9, limit=9)
        assert [(run.run, run.closed_at) for run in kept] == [(1, about(clock.now())), (0, about(closed_at))]
        clock.advance(WEEK.total_seconds() - MINUTE * 5)
        assert await prune(storage) == 2 + 1  # two events, and that the run is kept
        assert await storage.history(old.key, run=0) == []
        assert [event.activity_id for event in await storage.history(old.key, run=1)] == ["1:charge", None]
        assert [run.run for run in await storage.kept_runs(old.key, before=9, limit=9)] == [1]
        assert await database.count("archives") == 1

    async def test_closed_runs_are_kept_for_ever_if_nothing_else_is_said(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        one = await recur(worker, await worker.own("x"))
        outlive(clock, 52 * WEEK)
        assert await storage.prune(archives=None, deliveries=None, limit=100) == 0
        assert len(await storage.history(one.key, run=0)) == 2

    async def test_current_run_is_never_removed(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        one = await worker.advance(await recur(worker, await worker.own("x")), note("2:b"))
        outlive(clock, 52 * WEEK)
        await prune(storage)
        assert [event.activity_id for event in await storage.history(one.key)] == ["2:b"]
        assert (await worker.read("x")).run == one.run

    async def test_long_history_is_removed_in_portions(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        one = await worker.advance(await worker.own("x"), *(note(f"{n}:a") for n in range(9)))
        await recur(worker, one)
        outlive(clock, WEEK)
        removed = [await prune(storage, limit=5) for _ in range(5)]
        assert all(count <= 5 for count in removed)
        assert (sum(removed), removed[-1]) == (12, 0)  # 9 and 2 events, and that the run is kept
        assert await storage.kept_runs(one.key, before=9, limit=9) == []

    async def test_instances_that_have_ended_are_removed_after_their_time(
        self, worker: Worker, storage: Storage, clock: AdjustableClock, database: Database
    ) -> None:
        await worker.own("open")
        ended = await recur(worker, await worker.own("ended"))
        await storage.post([post("ended", "m")])
        await worker.close(ended)
        clock.advance(WEEK.total_seconds() - 5 * MINUTE)
        assert await storage.prune(instances=WEEK, archives=None, deliveries=None, limit=100) == 0
        clock.advance(6 * MINUTE)
        assert await storage.prune(instances=None, archives=None, deliveries=None, limit=100) == 0
        assert await storage.prune(instances=WEEK, archives=None, deliveries=None, limit=100) == 3 + 1
        assert await storage.get("ended") is None
        assert await storage.get("open") is not None
        counts = await database.counts()
        assert {name: counts[name] for name in ("instances", "history", "archives", "messages", "deliveries")} == {
            "instances": 1,
            "history": 0,
            "archives": 0,
            "messages": 0,
            "deliveries": 0,
        }
        await worker.create("ended")

    async def test_ended_instances_are_removed_a_little_at_a_time(
        self, worker: Worker, storage: Storage, clock: AdjustableClock, database: Database
    ) -> None:
        for number in range(3):
            one = await worker.advance(await worker.own(f"x{number}"), *(note(f"{n}:a") for n in range(4)))
            await worker.close(one)
        outlive(clock, WEEK)
        counts = [await storage.prune(instances=WEEK, archives=None, deliveries=None, limit=4) for _ in range(6)]
        assert all(count <= 4 for count in counts)
        assert (sum(counts), counts[-1]) == (3 * (5 + 1), 0)
        assert await database.count("instances") == 0

    async def test_kept_runs_are_read_in_pages_the_newest_first(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own("x")
        for _ in range(5):
            one = await recur(worker, one)
        found = [[run.run for run in await storage.kept_runs(one.key, before=before, limit=2)] for before in (5, 3, 1)]
        assert found == [[4, 3], [2, 1], [0]]
        assert await storage.kept_runs(10**6, before=9, limit=9) == []
