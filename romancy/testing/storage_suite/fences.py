"""Entries that come too late, or from the wrong one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from romancy.core.events import EventKind
from romancy.core.records import Entry, Heartbeat, Instance, NextRun, Rejected, Shown, Status
from romancy.core.requests import CancelChild, ChannelMode, ParentClosePolicy, Publish, StartChild, Subscribe, Wait
from romancy.errors import SessionLostError
from romancy.testing.storage_suite.making import DEFINITION, NEVER, Worker, note, outlive, post, send
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database


def sending(worker: Worker, instance: Instance) -> Entry:
    """Return a turn that leaves something everywhere where a turn can."""
    return worker.entry(
        instance,
        note(),
        requests=[
            send("bystander"),
            Publish("3:publish", "news", b"1", "m-3"),
            Subscribe("4:subscribe", "jobs", ChannelMode.COMPETING),
            StartChild("5:child", "child", 5, *DEFINITION, b"{}", ParentClosePolicy.CANCEL),
        ],
        orders=[Wait("6:wait", "jobs", "jobs:0/4"), CancelChild("1:child")],
        shown=Shown(b'"done"', {"state": "done"}),
        consumed=[1],
        inbox_seen=1,
        silenced=["1:charge"],
    )


STALE: dict[str, dict[str, Any]] = {
    "asks for everything": {},
    "sleeps": {"wake_at": NEVER, "waiting_on": b"[]"},
    "frees": {"wake_at": None, "is_freed": True},
    "completes": {"status": Status.COMPLETED, "wake_at": None},
    "is blocked": {"status": Status.BLOCKED, "reason": b"{}", "build": "build", "wake_at": None, "is_freed": True},
    "recurs": {"next_run": NextRun(*DEFINITION, b"[2]")},
}


class FencesSuite(Suite):
    """An entry holds only for the live session that owns its instance, and only where its turn began."""

    async def test_commit_of_an_expired_session_writes_nothing(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        owned = await worker.own()
        outlive(clock)
        with pytest.raises(SessionLostError, match=str(worker.session)):
            await worker.commit(worker.entry(owned, note()))
        assert await storage.history(owned.key) == []

    async def test_commit_of_a_closed_session_writes_nothing(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.close_session(worker.session)
        with pytest.raises(SessionLostError):
            await worker.commit(worker.entry(owned, note()))

    async def test_commit_rejects_what_another_session_owns(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        stranger = await Worker.start(storage, worker.clock)
        (answer,) = await stranger.commit(stranger.entry(owned, note()))
        assert isinstance(answer, Rejected)
        assert str(worker.session) in answer.reason
        assert await worker.read(owned.id) == owned

    async def test_commit_rejects_another_execution(self, worker: Worker) -> None:
        owned = await worker.own()
        (answer,) = await worker.commit(worker.entry(owned, note(), execution_id=owned.execution_id + 1))
        assert isinstance(answer, Rejected)

    async def test_commit_rejects_another_place_in_history(self, worker: Worker) -> None:
        owned = await worker.own()
        (answer,) = await worker.commit(worker.entry(owned, note(), seq=1))
        assert isinstance(answer, Rejected)
        assert await worker.read(owned.id) == owned

    async def test_commit_rejects_another_run(self, worker: Worker) -> None:
        owned = await worker.own()
        (answer,) = await worker.commit(worker.entry(owned, note(), run=owned.run + 1))
        assert isinstance(answer, Rejected)

    async def test_commit_rejects_an_instance_that_was_terminated(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.terminate(owned.id, b"{}")
        (answer,) = await worker.commit(worker.entry(owned, note()))
        assert isinstance(answer, Rejected)
        assert [e.kind for e in await storage.history(owned.key)] == [EventKind.RUN_TERMINATED]

    async def test_commit_rejects_an_instance_that_was_purged(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.terminate(owned.id, b"{}")
        await storage.purge(owned.id)
        (answer,) = await worker.commit(worker.entry(owned, note()))
        assert isinstance(answer, Rejected)

    async def test_commit_rejects_an_instance_that_was_restarted(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.terminate("x", b"{}")
        await worker.create("x", on_conflict="restart")
        (answer,) = await worker.commit(worker.entry(owned, note()))
        assert isinstance(answer, Rejected)

    @pytest.mark.parametrize("change", STALE)
    @pytest.mark.parametrize("is_dead", [False, True])
    async def test_stale_owner_leaves_nothing(
        self,
        worker: Worker,
        storage: Storage,
        clock: AdjustableClock,
        database: Database,
        change: str,
        is_dead: bool,
    ) -> None:
        """Ownership has moved on: because the session died, or because its owner had let go and does not know."""
        child = StartChild("1:child", "running", 1, *DEFINITION, b"{}", ParentClosePolicy.CANCEL)
        owned = await worker.advance(await worker.own("x"), requests=[child], wake_at=worker.at(-1))
        await worker.create("bystander")
        await storage.post([post("x", "m1")])
        beat = Heartbeat(owned.key, owned.execution_id, owned.run, "1:charge", 1, b"7")
        await storage.beat(worker.session, [beat])
        late = msgspec.structs.replace(sending(worker, owned), **STALE[change])
        if is_dead:
            outlive(clock)
            await storage.reap_sessions()
        else:
            await worker.accepted(worker.entry(owned, is_freed=True))
        successor = await Worker.start(storage, clock)
        taken = {claim.instance.id: claim for claim in await successor.claim_all()}
        assert [len(taken["x"].inbox), len(taken["x"].heartbeats)] == [1, 1]
        before = await database.counts(), [await worker.read(id) for id in ("x", "bystander", "running")]

        if is_dead:
            with pytest.raises(SessionLostError):
                await worker.commit(late)
            with pytest.raises(SessionLostError):
                await storage.beat(worker.session, [beat])
        else:
            (answer,) = await worker.commit(late)
            assert isinstance(answer, Rejected)
            await storage.beat(worker.session, [msgspec.structs.replace(beat, activity_id="2:pack")])
        assert await storage.get("child") is None
        after = await database.counts(), [await worker.read(id) for id in ("x", "bystander", "running")]
        assert after == before
        assert (await successor.advance(taken["x"].instance, note("2:next"))).next_seq == owned.next_seq + 1
