"""Sessions: registration, renewal, and what their end does to what they own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from romancy.core.failures import decode_failure
from romancy.core.records import SessionInfo, Status
from romancy.errors import SessionLostError
from romancy.testing.storage_suite.making import DEFINITION, MINUTE, NEVER, TTL, Worker, about, note, outlive, post
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock


class SessionsSuite(Suite):
    """A session owns what it owns until it ends or expires, and nothing after that."""

    async def test_session_numbers_are_never_used_again(self, storage: Storage) -> None:
        info = SessionInfo("build", [DEFINITION], host="somewhere", pid=1)
        first = await storage.open_session(info, TTL)
        await storage.close_session(first)
        assert await storage.open_session(info, TTL) > first

    async def test_renewal_lets_a_session_live(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        owned = await worker.own()
        for _ in range(3):
            clock.advance(0.9 * TTL.total_seconds())
            await storage.renew_session(worker.session, TTL)
        assert await storage.reap_sessions() == 0
        await worker.accepted(worker.entry(owned, note()))

    async def test_renewal_of_an_expired_session_is_too_late(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        outlive(clock)
        with pytest.raises(SessionLostError, match=str(worker.session)):
            await storage.renew_session(worker.session, TTL)

    async def test_renewal_of_a_closed_session_is_too_late(self, worker: Worker, storage: Storage) -> None:
        await storage.close_session(worker.session)
        with pytest.raises(SessionLostError):
            await storage.renew_session(worker.session, TTL)

    async def test_close_of_a_session_frees_what_was_due(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.close_session(worker.session)
        assert await worker.read(owned.id) == msgspec.structs.replace(owned, session=None)
        successor = await Worker.start(storage, worker.clock)
        (claim,) = await successor.claim_all()
        assert claim.instance.recoveries == 0

    async def test_close_of_a_session_leaves_asleep_what_sleeps(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        until = worker.at(1)
        one = await worker.advance(await worker.own(), wake_at=until)
        other = await worker.advance(await worker.own(), wake_at=None)
        await storage.close_session(worker.session)
        assert [(await worker.read(i.id)).wake_at for i in (one, other)] == [until, None]
        successor = await Worker.start(storage, clock)
        found = await storage.claim(successor.session, [DEFINITION], "build", limit=9)
        assert (found.claims, found.next_due) == ([], until)

    async def test_close_of_a_session_frees_what_has_mail_as_due(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.post([post(owned.id)])
        # As if the owner had parked it by a path that does not compare.
        await worker.advance(owned, inbox_seen=0, wake_at=None)
        await storage.close_session(worker.session)
        successor = await Worker.start(storage, worker.clock)
        assert len(await successor.claim_all()) == 1

    async def test_close_of_a_session_leaves_what_others_own(self, worker: Worker, storage: Storage) -> None:
        other = await Worker.start(storage, worker.clock)
        owned = await other.own()
        await storage.close_session(worker.session)
        assert await other.read(owned.id) == owned

    async def test_close_of_a_session_twice_does_nothing(self, worker: Worker, storage: Storage) -> None:
        await storage.close_session(worker.session)
        await storage.close_session(worker.session)

    async def test_reap_leaves_live_sessions(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        owned = await worker.own()
        clock.advance(0.9 * TTL.total_seconds())
        assert await storage.reap_sessions() == 0
        assert await worker.read(owned.id) == owned

    async def test_reap_frees_what_expired_sessions_own(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        owned = [await worker.own() for _ in range(3)]
        outlive(clock)
        successor = await Worker.start(storage, clock)
        assert await storage.reap_sessions() == 3
        assert await storage.reap_sessions() == 0
        claims = await successor.claim_all()
        assert [c.instance.key for c in claims] == [i.key for i in owned]

    async def test_reap_counts_a_recovery_of_what_was_due(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        due = await worker.own()
        asleep = await worker.advance(await worker.own(), wake_at=NEVER)
        idle = await worker.advance(await worker.own(), wake_at=None)
        outlive(clock)
        assert await storage.reap_sessions() == 3
        assert [(await worker.read(i.id)).recoveries for i in (due, asleep, idle)] == [1, 0, 0]

    async def test_reap_counts_every_recovery(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        owned = await worker.own()
        for _ in range(3):
            outlive(clock)
            await storage.reap_sessions()
            worker = await Worker.start(storage, clock)
            await worker.claim_all()
        assert (await worker.read(owned.id)).recoveries == 3

    async def test_reap_takes_the_caller_s_own_session(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        owned = await worker.own()
        outlive(clock)
        await storage.reap_sessions()
        with pytest.raises(SessionLostError):
            await worker.commit(worker.entry(owned, note()))
        with pytest.raises(SessionLostError):
            await storage.renew_session(worker.session, TTL)
        with pytest.raises(SessionLostError):
            await worker.claim_all()

    async def test_block_of_unserved_instances(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        lost = await worker.create(workflow="lost", version="7")
        served = await worker.create()
        clock.advance(5 * MINUTE)
        assert await storage.block_unserved(due_before=clock.now()) == 1
        assert await storage.block_unserved(due_before=clock.now()) == 0
        after = await worker.read(lost.id)
        assert after.reason is not None
        failure = decode_failure(after.reason)
        assert "'lost'" in failure.message
        assert "'7'" in failure.message
        assert after == msgspec.structs.replace(lost, status=Status.BLOCKED, reason=after.reason)
        assert await worker.read(served.id) == served

    async def test_blocked_as_unserved_is_taken_by_any_worker_that_serves_it(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        await worker.create(workflow="lost")
        clock.advance(5 * MINUTE)
        await storage.block_unserved(due_before=clock.now())
        found = await storage.claim(worker.session, [("lost", "1")], worker.build, limit=9)
        (claim,) = found.claims
        assert (claim.instance.status, claim.instance.reason) == (Status.RUNNING, None)
        assert claim.instance.started_at == about(clock.now())

    async def test_block_leaves_what_is_not_due_for_long(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        created = await worker.create(workflow="lost")
        assert await storage.block_unserved(due_before=worker.at(-5)) == 0
        assert await worker.read(created.id) == created

    async def test_block_counts_what_an_expired_session_served_as_unserved(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        await worker.create()
        outlive(clock)
        assert await storage.block_unserved(due_before=clock.now()) == 1

    async def test_block_leaves_what_is_owned(self, storage: Storage, clock: AdjustableClock) -> None:
        worker = await Worker.start(storage, clock, definitions=())
        owned = await worker.own()
        clock.advance(5 * MINUTE)
        assert await storage.block_unserved(due_before=clock.now()) == 0
        assert await worker.read(owned.id) == owned

    async def test_block_leaves_what_is_spared(self, worker: Worker, storage: Storage) -> None:
        spared = await worker.create(workflow="spared", version="2")
        await worker.create(workflow="spared", version="3")
        asked: list[tuple[str, str]] = []

        def is_spared(workflow: str, version: str) -> bool:
            asked.append((workflow, version))
            return version == "2"

        assert await storage.block_unserved(due_before=worker.at(0), is_spared=is_spared) == 1
        assert sorted(asked) == [("spared", "2"), ("spared", "3")]
        assert await worker.read(spared.id) == spared

    async def test_strays_are_freed_and_what_is_held_is_not(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        held, stray, starting = await worker.own(), await worker.own(), await worker.create(session=worker.session)
        other = await Worker.start(storage, clock)
        foreign = await other.own()
        assert await storage.free_strays(worker.session, [held.key], [starting.execution_id]) == 1
        assert (await worker.read(starting.id)).session == worker.session
        assert (await worker.read(held.id)).session == worker.session
        assert (await worker.read(foreign.id)).session == other.session
        (claim,) = await other.claim_all()
        assert claim.instance.key == stray.key

    async def test_reap_frees_what_an_ended_process_owns_before_its_session_expires(
        self, storage: Storage, clock: AdjustableClock
    ) -> None:
        dead = await Worker.start(storage, clock, process="gone")
        alive = await Worker.start(storage, clock)
        owned = await dead.own()
        kept = await alive.own()
        assert await storage.reap_sessions(lambda process: process == "gone") == 1
        assert (await alive.read(owned.id)).session is None
        assert (await alive.read(kept.id)).session == alive.session
        with pytest.raises(SessionLostError):
            await storage.renew_session(dead.session, TTL)
