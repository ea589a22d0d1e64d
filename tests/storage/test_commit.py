"""What a commit of one entry writes, and which entries it refuses."""

from __future__ import annotations

import sqlite3
from typing import cast

import msgspec
import pytest

from romancy.core.clock import ManualClock
from romancy.core.events import Event, EventKind, Note
from romancy.core.records import LEAVE, Accepted, NextRun, Refused, Rejected, Status
from romancy.errors import SessionLostError
from romancy.storage.protocol import Storage
from romancy.storage.sqlite import SqliteStorage

from .making import CLOSING, RECURRING, SECOND, Worker, note, post, send

pytestmark = pytest.mark.anyio


async def test_commit_writes_notes_as_events_with_their_places(worker: Worker, storage: Storage) -> None:
    owned = await worker.own()
    entry = worker.entry(owned, note("1:a", b"1"), note("2:b", b"2"), turn=7)
    await worker.accepted(entry)
    kind = EventKind.ACTIVITY_COMPLETED
    assert await storage.history(owned.key) == [
        Event(0, 7, entry.stamp, kind, "1:a", b"1"),
        Event(1, 7, entry.stamp, kind, "2:b", b"2"),
    ]


async def test_commit_counts_what_was_drained(worker: Worker) -> None:
    owned = await worker.own()
    after = await worker.advance(owned, note("1:a"), note("2:b"), note("3:c"), undrained=2)
    assert (after.next_seq, after.drained_seq) == (3, 1)


async def test_commit_leaves_what_an_ordinary_turn_does_not_write(worker: Worker) -> None:
    owned = await worker.own()
    after = await worker.advance(owned, note())
    assert after == msgspec.structs.replace(owned, next_seq=1, drained_seq=1)


async def test_commit_parks(worker: Worker, clock: ManualClock) -> None:
    owned = await worker.own()
    until = clock.now() + SECOND
    after = await worker.advance(owned, note(), wake_at=until, waiting_on=b'["timer"]')
    assert (after.wake_at, after.waiting_on, after.session) == (until, b'["timer"]', worker.session)


async def test_commit_leaves_waiting_on_with_wake_at(worker: Worker, clock: ManualClock) -> None:
    owned = await worker.own()
    parked = await worker.advance(owned, note(), wake_at=None, waiting_on=b'["timer"]')
    after = await worker.advance(parked, note(), wake_at=LEAVE)
    assert (after.wake_at, after.waiting_on) == (None, b'["timer"]')


async def test_commit_frees(worker: Worker) -> None:
    owned = await worker.own()
    after = await worker.advance(owned, note(), wake_at=None, is_freed=True)
    assert (after.session, after.status, after.wake_at) == (None, Status.RUNNING, None)


async def test_commit_frees_and_leaves_wake_at(worker: Worker) -> None:
    owned = await worker.own()
    after = await worker.advance(owned, note(), is_freed=True)
    assert (after.session, after.wake_at) == (None, owned.wake_at)


async def test_commit_closes(worker: Worker, clock: ManualClock) -> None:
    owned = await worker.own()
    parked = await worker.advance(owned, note(), wake_at=None, waiting_on=b"[]")
    clock.advance(5)
    after = await worker.close(parked)
    assert (after.session, after.wake_at, after.status) == (None, None, Status.COMPLETED)
    assert (after.closed_at, after.waiting_on) == (clock.now(), None)


async def test_commit_blocks_until_it_is_due_for_another_build(worker: Worker, clock: ManualClock) -> None:
    owned = await worker.own()
    after = await worker.advance(
        owned,
        status=Status.BLOCKED,
        wake_at=clock.now() + SECOND,
        is_freed=True,
        reason=b"{}",
        build=worker.build,
    )
    assert (after.status, after.wake_at, after.reason, after.build) == (
        Status.BLOCKED,
        clock.now() + SECOND,
        b"{}",
        worker.build,
    )


async def test_commit_opens_the_next_run(worker: Worker, storage: Storage, clock: ManualClock) -> None:
    owned = await worker.own()
    clock.advance(3)
    after = await worker.advance(owned, note(), RECURRING, next_run=NextRun("order", "2", b"[2]"))
    assert (after.run, after.next_seq, after.drained_seq) == (owned.run + 1, 0, 0)
    assert (after.workflow, after.version, after.input) == ("order", "2", b"[2]")
    assert (after.started_at, after.session, after.status) == (clock.now(), worker.session, Status.RUNNING)
    assert await storage.history(owned.key) == []
    assert [e.kind for e in await storage.history(owned.key, run=owned.run)] == [
        EventKind.ACTIVITY_COMPLETED,
        EventKind.RUN_RECURRED,
    ]


async def test_commit_goes_on_in_the_next_run(worker: Worker, storage: Storage) -> None:
    owned = await worker.own()
    second = await worker.advance(owned, RECURRING, next_run=NextRun("order", "1", b"[2]"))
    await worker.advance(second, note("1:again"))
    assert [e.activity_id for e in await storage.history(owned.key)] == ["1:again"]


async def test_commit_keeps_the_inbox_when_a_run_recurs(worker: Worker, storage: Storage) -> None:
    owned = await worker.own()
    await storage.post([post(owned.id)])
    await worker.advance(owned, RECURRING, next_run=NextRun("order", "1", b"[2]"), is_freed=True)
    (claim,) = await worker.claim_all()
    assert [item.seq for item in claim.inbox] == [1]


async def test_commit_resets_recoveries_when_history_grows(worker: Worker, storage: Storage) -> None:
    owned = await worker.own()
    worker.clock.advance(60)
    await storage.reap_sessions()
    successor = await Worker.start(storage, worker.clock)
    (claim,) = await successor.claim_all()
    assert claim.instance.recoveries == 1
    same = await successor.advance(claim.instance)
    assert same.recoveries == 1
    assert (await successor.advance(same, note())).recoveries == 0
    assert owned.key == claim.instance.key


async def test_commit_answers_entries_in_order(worker: Worker) -> None:
    one, other, third = [await worker.own() for _ in range(3)]
    answers = await worker.commit(
        worker.entry(one, note()), worker.entry(other, note(), seq=4), worker.entry(third, note())
    )
    assert [type(answer) for answer in answers] == [Accepted, Rejected, Accepted]


async def test_commit_of_nothing_answers_nothing(worker: Worker) -> None:
    assert await worker.commit() == []


async def test_commit_takes_one_entry_per_instance(worker: Worker) -> None:
    owned = await worker.own()
    with pytest.raises(ValueError, match="one entry per instance"):
        await worker.commit(worker.entry(owned, note()), worker.entry(owned, note(), seq=1))


class TestFences:
    async def test_commit_of_an_expired_session_writes_nothing(
        self, worker: Worker, storage: Storage, clock: ManualClock
    ) -> None:
        owned = await worker.own()
        clock.advance(10)
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
        assert await stranger.commit(stranger.entry(owned, note())) == [
            Rejected(f"the instance is owned by session {worker.session}, not {stranger.session}")
        ]
        assert await worker.read(owned.id) == owned

    async def test_commit_rejects_another_execution(self, worker: Worker) -> None:
        owned = await worker.own()
        (answer,) = await worker.commit(worker.entry(owned, note(), execution_id=owned.execution_id + 1))
        assert answer == Rejected("the instance was started anew")

    async def test_commit_rejects_another_place_in_history(self, worker: Worker) -> None:
        owned = await worker.own()
        (answer,) = await worker.commit(worker.entry(owned, note(), seq=1))
        assert answer == Rejected("the instance stands at run 0, event 0, not at run 0, event 1")

    async def test_commit_rejects_another_run(self, worker: Worker) -> None:
        owned = await worker.own()
        (answer,) = await worker.commit(worker.entry(owned, note(), run=owned.run + 1))
        assert isinstance(answer, Rejected)

    async def test_commit_rejects_an_instance_that_was_terminated(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.terminate(owned.id, b"{}")
        (answer,) = await worker.commit(worker.entry(owned, note()))
        assert answer == Rejected("the instance has ended")
        assert [e.kind for e in await storage.history(owned.key)] == [EventKind.RUN_TERMINATED]

    async def test_commit_rejects_an_instance_that_was_purged(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own()
        await storage.terminate(owned.id, b"{}")
        await storage.purge(owned.id)
        assert await worker.commit(worker.entry(owned, note())) == [Rejected("the instance is gone")]

    async def test_commit_rejects_an_instance_that_was_restarted(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.terminate("x", b"{}")
        await worker.create("x", on_conflict="restart")
        (answer,) = await worker.commit(worker.entry(owned, note()))
        assert isinstance(answer, Rejected)


CHANGES: dict[str, dict[str, object]] = {
    "advancing": {},
    "parking": {"wake_at": None, "waiting_on": b"[]"},
    "freeing": {"wake_at": None, "is_freed": True},
    "closing": {"status": Status.COMPLETED, "wake_at": None},
    "recurring": {"next_run": NextRun("order", "1", b"[2]")},
}


class TestLostAcknowledgement:
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

    async def test_commit_recognises_a_blocking_without_events(self, worker: Worker, clock: ManualClock) -> None:
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


POISON: dict[str, dict[str, object]] = {
    "integer too large": {"notes": [Note(EventKind.SIDE_EFFECT, "1:x", b"")], "stamp": 2**63},
    "not storable": {"notes": [Note(EventKind.SIDE_EFFECT, "1:x", cast("bytes", object()))]},
    "not text": {"notes": [Note(EventKind.SIDE_EFFECT, "\ud800", b"")]},
    "no message id": {
        "requests": [msgspec.structs.replace(send("target"), message_id=None)]  # a constraint of the inbox
    },
}


class TestRefusals:
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

    async def test_commit_refuses_a_payload_that_is_too_big_alone(self, worker: Worker, storage: Storage) -> None:
        assert isinstance(storage, SqliteStorage)
        limit = 100_000
        await storage._writer.read(lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limit))
        small, big = await worker.own(), await worker.own()
        answers = await worker.commit(worker.entry(small, note()), worker.entry(big, note(payload=bytes(limit))))
        assert answers == [Accepted([]), Refused("DataError: string or blob too big")]
        assert (await worker.read(small.id)).next_seq == 1

    async def test_commit_says_that_mail_has_come_though_another_was_refused(self, worker: Worker) -> None:
        target, poisoned, sender = await worker.own("target"), await worker.own(), await worker.own()
        answers = await worker.commit(
            worker.entry(target, note(), wake_at=None),
            worker.entry(poisoned, note(), stamp=2**63),
            worker.entry(sender, requests=[send("target")]),
        )
        assert [isinstance(a, Accepted) and a.mailed for a in answers] == [True, False, False]

    async def test_commit_goes_on_after_a_refusal(self, worker: Worker) -> None:
        owned = await worker.own()
        (answer,) = await worker.commit(worker.entry(owned, stamp=2**63, notes=[note()]))
        assert isinstance(answer, Refused)
        await worker.accepted(worker.entry(owned, note()))
