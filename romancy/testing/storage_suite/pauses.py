"""Pausing instances, and letting them go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from romancy.core.records import Claims, Status
from romancy.errors import InstanceClosedError, InstanceNotFoundError, WorkflowBlockedError
from romancy.testing.storage_suite.making import Worker, note, outlive, post
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock


class PausesSuite(Suite):
    """Nobody claims what is paused, nothing that was under way is lost, and it goes on where it was."""

    async def test_paused_instance_is_not_claimed(self, worker: Worker, storage: Storage) -> None:
        await worker.create("x")
        await storage.pause("x")
        assert (await worker.read("x")).status is Status.PAUSED
        assert await worker.claim() == Claims([], None)
        await storage.post([post("x")])
        assert await worker.claim() == Claims([], None)

    async def test_unpaused_instance_is_claimed_with_what_has_come_meanwhile(
        self, worker: Worker, storage: Storage
    ) -> None:
        await worker.create("x")
        await storage.pause("x")
        await storage.post([post("x")])
        await storage.unpause("x")
        (claim,) = await worker.claim_all()
        assert (claim.instance.id, claim.instance.status, len(claim.inbox)) == ("x", Status.RUNNING, 1)

    async def test_pause_of_an_owned_instance_is_told_to_its_owner(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.pause("x")
        (mail,) = await storage.mail(worker.session)
        assert (mail.key, mail.status, mail.items) == (owned.key, Status.PAUSED, [])
        assert (await worker.read("x")).session == worker.session

    async def test_owner_s_turn_that_was_under_way_is_taken_and_leaves_it_paused(
        self, worker: Worker, storage: Storage
    ) -> None:
        owned = await worker.own("x")
        await storage.pause("x")
        after = await worker.advance(owned, note(), wake_at=worker.at(-1), is_freed=True)
        assert (after.status, after.session, after.next_seq) == (Status.PAUSED, None, 1)
        assert await worker.claim_all() == []
        await storage.unpause("x")
        (claim,) = await worker.claim_all()
        assert [e.activity_id for e in claim.history] == ["1:charge"]

    async def test_turn_that_was_under_way_and_blocks_leaves_it_paused(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.pause("x")
        entry = worker.entry(
            owned, status=Status.BLOCKED, wake_at=worker.at(-1), is_freed=True, build="b", reason=b"{}"
        )
        await worker.accepted(entry)
        after = await worker.read("x")
        assert (after.status, after.session) == (Status.PAUSED, None)
        assert await worker.claim_all() == []
        await storage.unpause("x")
        (claim,) = await worker.claim_all()
        assert claim.instance.status is Status.RUNNING

    async def test_owner_s_closing_turn_that_was_under_way_is_taken(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.pause("x")
        assert (await worker.close(owned)).status is Status.COMPLETED

    async def test_pause_and_unpause_twice_do_nothing_more(self, worker: Worker, storage: Storage) -> None:
        await worker.create("x")
        await storage.unpause("x")
        await storage.pause("x")
        paused = await worker.read("x")
        await storage.pause("x")
        assert paused == await worker.read("x")
        for _ in range(2):
            await storage.unpause("x")
        assert len(await worker.claim_all()) == 1

    async def test_pause_of_what_is_not_there_or_has_ended(self, worker: Worker, storage: Storage) -> None:
        closed = await worker.close(await worker.own("x"))
        for act in (storage.pause, storage.unpause):
            with pytest.raises(InstanceNotFoundError, match="'nobody'"):
                await act("nobody")
            with pytest.raises(InstanceClosedError, match="'x'"):
                await act("x")
        assert await worker.read("x") == closed

    async def test_pause_of_a_blocked_instance_is_refused(self, worker: Worker, storage: Storage) -> None:
        blocked = await worker.block("x")
        with pytest.raises(WorkflowBlockedError, match="'x'"):
            await storage.pause("x")
        assert await worker.read("x") == blocked

    async def test_paused_instance_can_be_terminated(self, worker: Worker, storage: Storage) -> None:
        await worker.create("x")
        await storage.pause("x")
        await storage.terminate("x", b"{}")
        assert (await worker.read("x")).status is Status.TERMINATED

    async def test_paused_instance_outlives_its_owner_s_session(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        owned = await worker.own("x")
        await storage.pause("x")
        outlive(clock)
        assert await storage.reap_sessions() == 1
        successor = await Worker.start(storage, clock)
        assert await successor.claim_all() == []
        await storage.unpause("x")
        (claim,) = await successor.claim_all()
        assert claim.instance.key == owned.key
