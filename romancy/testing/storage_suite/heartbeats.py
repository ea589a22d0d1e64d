"""What running activities have told last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from romancy.core.records import Heartbeat, Instance, NextRun, Status
from romancy.errors import SessionLostError
from romancy.testing.storage_suite.making import CLOSING, RECURRING, Worker, note, outlive
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database


def beat(instance: Instance, details: bytes = b"7", **changes: object) -> Heartbeat:
    """Return a heartbeat of an instance's first activity."""
    given = Heartbeat(instance.key, instance.execution_id, instance.run, "1:charge", 1, details)
    return msgspec.structs.replace(given, **changes)


async def kept(worker: Worker) -> list[Heartbeat]:
    """Return what the next owner reads: the worker that asks gives everything up."""
    await worker.storage.close_session(worker.session)
    other = await Worker.start(worker.storage, worker.clock)
    claims = await other.claim_all()
    await worker.storage.close_session(other.session)
    return [found for claim in claims for found in claim.heartbeats]


class HeartbeatsSuite(Suite):
    """The latest details of an attempt are there for the next owner, and gone with the attempt."""

    async def test_heartbeats_are_read_with_the_claim(self, worker: Worker, storage: Storage) -> None:
        one, other = await worker.own("one"), await worker.own("other")
        beats = [beat(one), beat(one, b"[8]", activity_id="2:pack", attempt=3), beat(other, b"9")]
        await storage.beat(worker.session, beats)
        assert await kept(worker) == beats

    async def test_later_heartbeat_replaces_an_earlier_one(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own()
        await storage.beat(worker.session, [beat(one, b"7"), beat(one, b"8")])
        await storage.beat(worker.session, [beat(one, b"9", attempt=2)])
        assert await kept(worker) == [beat(one, b"9", attempt=2)]

    @pytest.mark.parametrize("change", [{"execution_id": 5}, {"run": 1}, {"key": 99}], ids=str)
    async def test_heartbeat_of_another_start_or_run_is_passed_over(
        self, worker: Worker, storage: Storage, change: dict[str, object]
    ) -> None:
        one = await worker.own()
        await storage.beat(worker.session, [beat(one, b"8", activity_id="2:pack", **change), beat(one)])
        assert await kept(worker) == [beat(one)]

    async def test_heartbeat_of_an_instance_that_another_session_owns_is_passed_over(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        zombie = await Worker.start(storage, clock)
        one = await worker.own()
        await storage.beat(zombie.session, [beat(one)])
        assert await kept(worker) == []

    async def test_heartbeat_of_a_dead_session_writes_nothing(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        one = await worker.own()
        outlive(clock)
        with pytest.raises(SessionLostError):
            await storage.beat(worker.session, [beat(one)])
        assert await kept(worker) == []

    async def test_commit_deletes_the_heartbeats_that_it_silences(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own()
        left = beat(one, activity_id="2:pack")
        await storage.beat(worker.session, [beat(one), left])
        await worker.advance(one, note(), silenced=["1:charge"])
        assert [found.activity_id for found in await kept(worker)] == ["2:pack"]

    async def test_rejected_entry_silences_nothing(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own()
        await storage.beat(worker.session, [beat(one)])
        await worker.commit(worker.entry(one, note(), silenced=["1:charge"], seq=5))
        assert await kept(worker) == [beat(one)]

    async def test_heartbeats_of_an_earlier_run_are_not_read(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own()
        await storage.beat(worker.session, [beat(one)])
        await worker.advance(one, RECURRING, next_run=NextRun("order", "1", b"{}"), wake_at=worker.clock.now())
        assert await kept(worker) == []

    async def test_terminated_or_purged_instance_leaves_no_heartbeat(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        one, other = await worker.own("one"), await worker.own("other")
        await storage.beat(worker.session, [beat(one), beat(other)])
        await storage.terminate("one", b"{}")
        await worker.advance(other, CLOSING, status=Status.COMPLETED, wake_at=None)
        await storage.purge("other")
        await storage.purge("one")
        assert await database.count("heartbeats") == 0

    async def test_heartbeat_after_the_end_is_passed_over(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        one = await worker.own("one")
        await storage.terminate("one", b"{}")
        await storage.beat(worker.session, [beat(one)])
        assert await database.count("heartbeats") == 0
