"""What is removed when it has been kept for long enough."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from romancy.core.records import PostResult, Publication
from romancy.core.requests import ChannelMode, Subscribe
from romancy.testing.storage_suite.making import MINUTE, Worker, outlive, post
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock

WEEK = timedelta(days=7)


async def prune(storage: Storage, limit: int = 100) -> int:
    """Remove what is older than a week."""
    return await storage.prune(archives=WEEK, deliveries=WEEK, limit=limit)


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
