"""Commits whose acknowledgement was lost, and that are made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from romancy.core.records import Accepted, NextRun, Rejected, Status
from romancy.core.requests import ChannelMode, ParentClosePolicy, Publish, StartChild, Subscribe, Wait
from romancy.testing.storage_suite.making import CLOSING, DEFINITION, Worker, note, send
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

CHANGES: dict[str, dict[str, object]] = {
    "advancing": {},
    "parking": {"wake_at": None, "waiting_on": b"[]"},
    "freeing": {"wake_at": None, "is_freed": True},
    "closing": {"status": Status.COMPLETED, "wake_at": None},
    "recurring": {"next_run": NextRun("order", "1", b"[2]")},
}


class AcknowledgementsSuite(Suite):
    """A commit that is repeated finds its own rows, writes nothing more and answers as it did."""

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("with_sends", [False, True])
    async def test_commit_recognises_what_it_has_written(
        self, worker: Worker, storage: Storage, change: str, with_sends: bool
    ) -> None:
        target = await worker.own("target")
        owned = await worker.own("sender")
        sends = [send("target"), send("nobody", activity_id="3:send")] if with_sends else []
        entry = worker.entry(owned, note(), requests=sends, **CHANGES[change])
        first = await worker.accepted(entry)
        rows = await worker.read("sender"), await worker.read("target")
        assert await worker.accepted(entry) == first
        assert (await worker.read("sender"), await worker.read("target")) == rows
        assert len(await storage.history(owned.key, run=owned.run)) == 1 + len(sends)
        assert first.recipients == ((target.key,) if with_sends else ())

    async def test_commit_recognises_an_entry_of_nothing_but_sends(self, worker: Worker) -> None:
        await worker.own("target")
        owned = await worker.own()
        entry = worker.entry(owned, requests=[send("target"), send("nobody")])
        first = await worker.accepted(entry)
        assert await worker.accepted(entry) == first
        assert [event.payload for event in first.outcomes] == [b"0", b"2"]
        assert (await worker.read("target")).inbox_seq == 1

    async def test_commit_recognises_a_freeing_without_events(self, worker: Worker) -> None:
        owned = await worker.own()
        entry = worker.entry(owned, wake_at=None, is_freed=True)
        assert await worker.accepted(entry) == await worker.accepted(entry)

    async def test_commit_recognises_a_blocking_without_events(self, worker: Worker, clock: AdjustableClock) -> None:
        owned = await worker.own()
        entry = worker.entry(
            owned, status=Status.BLOCKED, wake_at=clock.now(), is_freed=True, reason=b"{}", build=worker.build
        )
        assert await worker.accepted(entry) == await worker.accepted(entry)

    async def test_commit_recognises_what_it_has_written_after_another_has_gone_on(
        self, worker: Worker, storage: Storage
    ) -> None:
        owned = await worker.own()
        entry = worker.entry(owned, note(), is_freed=True)
        first = await worker.accepted(entry)
        successor = await Worker.start(storage, worker.clock)
        (claim,) = await successor.claim_all()
        await successor.advance(claim.instance, note("2:b"))
        assert await worker.accepted(entry) == first

    async def test_commit_recognises_its_entries_among_others(self, worker: Worker) -> None:
        one, other = await worker.own(), await worker.own()
        entry = worker.entry(one, note())
        await worker.accepted(entry)
        answers = await worker.commit(entry, worker.entry(other, note()))
        assert [type(answer) for answer in answers] == [Accepted, Accepted]
        assert (await worker.read(other.id)).next_seq == 1

    async def test_commit_does_not_mistake_a_termination_for_its_own(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.terminate(owned.id, b"{}")
        (event,) = await storage.history(owned.key)
        # As alike as can be: same place, turn and stamp.
        entry = worker.entry(owned, CLOSING, turn=event.turn, stamp=event.stamp, status=Status.COMPLETED)
        (answer,) = await worker.commit(entry)
        assert isinstance(answer, Rejected)

    async def test_commit_does_not_mistake_another_turn_for_its_own(self, worker: Worker) -> None:
        owned = await worker.own()
        await worker.advance(owned, note())
        (answer,) = await worker.commit(worker.entry(owned, note(), stamp=worker.clock.now() + 1))
        assert isinstance(answer, Rejected)

    @pytest.mark.parametrize("change", CHANGES)
    async def test_commit_recognises_requests_of_every_kind(
        self, worker: Worker, storage: Storage, database: Database, change: str
    ) -> None:
        await worker.own("target")
        owned = await worker.own("sender")
        entry = worker.entry(
            owned,
            note(),
            requests=[
                send("target"),
                Publish("3:publish", "news", b"1", "m-3"),
                Subscribe("4:subscribe", "jobs", ChannelMode.COMPETING),
                StartChild("5:child", "child", 5, *DEFINITION, b"{}", ParentClosePolicy.ABANDON),
                StartChild("6:child", "target", 6, *DEFINITION, b"{}", ParentClosePolicy.ABANDON),
            ],
            orders=[Wait("7:wait", "jobs", "jobs:0/4")],
            **CHANGES[change],
        )
        first = await worker.accepted(entry)
        assert [event.payload for event in first.outcomes] == [b"0", b"0", b'"jobs:0/4"', b"0", b"1"]
        counts = await database.counts()
        assert (await worker.accepted(entry)).outcomes == first.outcomes
        assert await database.counts() == counts
