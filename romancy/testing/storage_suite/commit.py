"""What a commit writes, and which entries the database refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from romancy.core.events import Event, EventKind, Note
from romancy.core.records import LEAVE, Accepted, NextRun, Refused, Rejected, Status
from romancy.testing.storage_suite.making import CLOSING, MINUTE, NEVER, RECURRING, Worker, note, outlive, post, send
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock

TOO_LARGE = 2**100
"""An instant that no database can keep."""

POISON: dict[str, dict[str, object]] = {
    "integer too large": {"notes": [Note(EventKind.SIDE_EFFECT, "1:x", b"")], "stamp": TOO_LARGE},
    "not storable": {"notes": [Note(EventKind.SIDE_EFFECT, "1:x", cast("bytes", object()))]},
    "not text": {"notes": [Note(EventKind.SIDE_EFFECT, "\ud800", b"")]},
    "no message id": {
        "requests": [msgspec.structs.replace(send("target"), message_id=None)]  # a constraint of the inbox
    },
}


class CommitSuite(Suite):
    """An entry is written whole or not at all, whatever becomes of the others of its batch."""

    async def test_commit_writes_notes_as_events_with_their_places(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        entry = worker.entry(owned, note("1:a", b"1"), note("2:b", b"2"), turn=7)
        await worker.accepted(entry)
        kind = EventKind.ACTIVITY_COMPLETED
        assert await storage.history(owned.key) == [
            Event(0, 7, entry.stamp, kind, "1:a", b"1"),
            Event(1, 7, entry.stamp, kind, "2:b", b"2"),
        ]

    async def test_commit_counts_what_was_drained(self, worker: Worker) -> None:
        owned = await worker.own()
        after = await worker.advance(owned, note("1:a"), note("2:b"), note("3:c"), undrained=2)
        assert (after.next_seq, after.drained_seq) == (3, 1)

    async def test_commit_leaves_what_an_ordinary_turn_does_not_write(self, worker: Worker) -> None:
        owned = await worker.own()
        after = await worker.advance(owned, note())
        assert after == msgspec.structs.replace(owned, next_seq=1, drained_seq=1)

    async def test_commit_parks(self, worker: Worker, clock: AdjustableClock) -> None:
        owned = await worker.own()
        until = worker.at(1)
        after = await worker.advance(owned, note(), wake_at=until, waiting_on=b'["timer"]')
        assert (after.wake_at, after.waiting_on, after.session) == (until, b'["timer"]', worker.session)

    async def test_commit_leaves_waiting_on_with_wake_at(self, worker: Worker, clock: AdjustableClock) -> None:
        owned = await worker.own()
        parked = await worker.advance(owned, note(), wake_at=None, waiting_on=b'["timer"]')
        after = await worker.advance(parked, note(), wake_at=LEAVE)
        assert (after.wake_at, after.waiting_on) == (None, b'["timer"]')

    async def test_commit_frees(self, worker: Worker) -> None:
        owned = await worker.own()
        after = await worker.advance(owned, note(), wake_at=None, is_freed=True)
        assert (after.session, after.status, after.wake_at) == (None, Status.RUNNING, None)

    async def test_commit_frees_and_leaves_wake_at(self, worker: Worker) -> None:
        owned = await worker.own()
        after = await worker.advance(owned, note(), is_freed=True)
        assert (after.session, after.wake_at) == (None, owned.wake_at)

    async def test_commit_closes(self, worker: Worker, clock: AdjustableClock) -> None:
        owned = await worker.own()
        parked = await worker.advance(owned, note(), wake_at=None, waiting_on=b"[]")
        clock.advance(5 * MINUTE)
        stamp = clock.now()
        after = await worker.advance(parked, CLOSING, status=Status.COMPLETED, wake_at=None, stamp=stamp)
        assert (after.session, after.wake_at, after.status) == (None, None, Status.COMPLETED)
        assert (after.closed_at, after.waiting_on) == (stamp, None)

    async def test_commit_blocks_until_it_is_due_for_another_build(
        self, worker: Worker, clock: AdjustableClock
    ) -> None:
        until = worker.at(1)
        after = await worker.advance(
            await worker.own(), status=Status.BLOCKED, wake_at=until, is_freed=True, reason=b"{}", build=worker.build
        )
        assert (after.status, after.wake_at, after.reason, after.build) == (
            Status.BLOCKED,
            until,
            b"{}",
            worker.build,
        )
        assert after.session is None

    async def test_commit_opens_the_next_run(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        owned = await worker.own()
        clock.advance(3 * MINUTE)
        stamp = clock.now()
        after = await worker.advance(owned, note(), RECURRING, next_run=NextRun("order", "2", b"[2]"), stamp=stamp)
        assert (after.run, after.next_seq, after.drained_seq) == (owned.run + 1, 0, 0)
        assert (after.workflow, after.version, after.input) == ("order", "2", b"[2]")
        assert (after.started_at, after.session, after.status) == (stamp, worker.session, Status.RUNNING)
        assert await storage.history(owned.key) == []
        assert [e.kind for e in await storage.history(owned.key, run=owned.run)] == [
            EventKind.ACTIVITY_COMPLETED,
            EventKind.RUN_RECURRED,
        ]

    async def test_commit_goes_on_in_the_next_run(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        second = await worker.advance(owned, RECURRING, next_run=NextRun("order", "1", b"[2]"))
        await worker.advance(second, note("1:again"))
        assert [e.activity_id for e in await storage.history(owned.key)] == ["1:again"]

    async def test_commit_keeps_the_inbox_when_a_run_recurs(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.post([post(owned.id)])
        await worker.advance(owned, RECURRING, next_run=NextRun("order", "1", b"[2]"), is_freed=True)
        (claim,) = await worker.claim_all()
        assert [item.seq for item in claim.inbox] == [1]

    async def test_commit_resets_recoveries_when_history_grows(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        outlive(worker.clock)
        await storage.reap_sessions()
        successor = await Worker.start(storage, worker.clock)
        (claim,) = await successor.claim_all()
        assert claim.instance.recoveries == 1
        same = await successor.advance(claim.instance)
        assert same.recoveries == 1
        assert (await successor.advance(same, note())).recoveries == 0
        assert owned.key == claim.instance.key

    @pytest.mark.parametrize("wake_at", [None, NEVER])
    async def test_commit_resets_recoveries_when_the_run_goes_to_sleep(
        self, worker: Worker, storage: Storage, wake_at: int | None
    ) -> None:
        """It has lived through all that there was to do: what it is sent while it sleeps does not add up."""
        owned = await worker.own()
        for _ in range(3):
            await storage.post([post(owned.id)])
            outlive(worker.clock)
            await storage.reap_sessions()
            worker = await Worker.start(storage, worker.clock)
            (claim,) = await worker.claim_all()
            assert claim.instance.recoveries == 1
            busy = await worker.advance(claim.instance, wake_at=worker.clock.now())
            assert busy.recoveries == 1
            assert (await worker.advance(busy, wake_at=wake_at)).recoveries == 0

    async def test_commit_answers_entries_in_order(self, worker: Worker) -> None:
        one, other, third = [await worker.own() for _ in range(3)]
        answers = await worker.commit(
            worker.entry(one, note()), worker.entry(other, note(), seq=4), worker.entry(third, note())
        )
        assert [type(answer) for answer in answers] == [Accepted, Rejected, Accepted]

    async def test_commit_of_nothing_answers_nothing(self, worker: Worker) -> None:
        assert await worker.commit() == []

    async def test_commit_takes_one_entry_per_instance(self, worker: Worker) -> None:
        owned = await worker.own()
        with pytest.raises(ValueError, match="one entry per instance"):
            await worker.commit(worker.entry(owned, note()), worker.entry(owned, note(), seq=1))

    @pytest.mark.parametrize("poison", POISON)
    async def test_commit_refuses_a_poisoned_entry_alone(self, worker: Worker, storage: Storage, poison: str) -> None:
        target = await worker.own("target")
        before, poisoned, after = [await worker.own() for _ in range(3)]
        answers = await worker.commit(
            worker.entry(before, note()),
            worker.entry(poisoned, **POISON[poison]),
            worker.entry(after, note(), requests=[send("target")]),
        )
        assert [type(answer) for answer in answers] == [Accepted, Refused, Accepted]
        assert await worker.read(poisoned.id) == poisoned
        assert await storage.history(poisoned.key) == []
        assert (await worker.read(before.id)).next_seq == 1
        assert (await worker.read(after.id)).next_seq == 2
        assert (await worker.read(target.id)).inbox_seq == 1

    async def test_commit_says_that_mail_has_come_though_another_was_refused(self, worker: Worker) -> None:
        target, poisoned, sender = await worker.own("target"), await worker.own(), await worker.own()
        answers = await worker.commit(
            worker.entry(target, note(), wake_at=None),
            worker.entry(poisoned, note(), stamp=TOO_LARGE),
            worker.entry(sender, requests=[send("target")]),
        )
        assert [isinstance(a, Accepted) and a.mailed for a in answers] == [True, False, False]

    async def test_commit_goes_on_after_a_refusal(self, worker: Worker) -> None:
        owned = await worker.own()
        (answer,) = await worker.commit(worker.entry(owned, stamp=TOO_LARGE, notes=[note()]))
        assert isinstance(answer, Refused)
        await worker.accepted(worker.entry(owned, note()))
