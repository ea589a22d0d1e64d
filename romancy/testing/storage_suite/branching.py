"""Histories that go on in another way: rewound in place, or branched off into another instance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from romancy.core.events import Event, EventKind, Note
from romancy.core.records import (
    Branch,
    InboxItem,
    InboxKind,
    Instance,
    InstanceFilter,
    Post,
    PostResult,
    Publication,
    Status,
)
from romancy.core.requests import ChannelMode, ParentClosePolicy, Subscribe
from romancy.errors import InstanceAlreadyExistsError, InstanceNotFoundError, InstanceRunningError
from romancy.testing.storage_suite.children import child, ends_told
from romancy.testing.storage_suite.making import DEFINITION, MINUTE, Worker, about, note
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

FAILED: dict[str, object] = {"status": Status.FAILED, "wake_at": None}
END = Note(EventKind.RUN_FAILED, None, b"{}")


async def failed(worker: Worker, id: str = "one", *notes: Note) -> Instance:
    """Make an instance that has recorded some activities, and failed."""
    owned = await worker.own(id)
    for each in notes or (note("1:a"), note("2:b"), note("3:c")):
        owned = await worker.advance(owned, each)
    await worker.accepted(worker.entry(owned, END, **FAILED))
    return await worker.read(id)


def branch_of(instance: Instance, cut: int, stamp: int, **changes: object) -> Branch:
    """Return a branch that keeps some events of an instance, and resumes behind them."""
    resumed = Event(cut, cut + 1, stamp, EventKind.RUN_RESUMED, None, b'{"mark":"x"}')
    branch = Branch(instance.key, instance.execution_id, instance.run, instance.next_seq, cut, [resumed])
    return msgspec.structs.replace(branch, **changes)


def moved(event: Event) -> Event:
    """Return an event with the next number."""
    return Event(event.seq + 1, *event[1:])


async def copy_of(storage: Storage, instance: Instance, cut: int, stamp: int, **changes: object) -> Branch:
    """Return a branch for another instance: its own first event, those that are kept, and one behind them."""
    first = Event(0, 1, stamp, EventKind.RUN_COPIED, None, b"{}")
    branch = branch_of(instance, cut, stamp, kept=(await storage.history(instance.key))[cut - 1])
    return msgspec.structs.replace(branch, events=[first, moved(branch.events[0])], **changes)


def _post(to: str, message_id: str) -> Post:
    return Post(to, InboxKind.MESSAGE, "news", b'"text"', message_id)


class BranchingSuite(Suite):
    """What is cut off is gone, what is kept is as it was, and nothing of it happens by halves."""

    async def test_rewound_instance_is_claimed_with_what_was_kept(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        one = await failed(worker)
        before = await storage.history(one.key)
        clock.advance(MINUTE)
        branch = branch_of(one, 1, clock.now())
        await storage.rewind([branch])
        row = await worker.read("one")
        told = (row.status, row.session, row.next_seq, row.drained_seq, row.closed_at, row.reason, row.recoveries)
        assert told == (Status.RUNNING, None, 2, 1, None, None, 0)
        assert row.started_at == one.started_at
        (claim,) = await worker.claim_all()
        assert claim.history == [before[0], *branch.events]
        assert claim.instance.wake_at == about(clock.now())

    async def test_rewinding_is_recognised_when_it_is_repeated(self, worker: Worker, storage: Storage) -> None:
        one = await failed(worker)
        branch = branch_of(one, 1, worker.clock.now())
        await storage.rewind([branch])
        (claim,) = await worker.claim_all()
        await worker.advance(claim.instance, note("2:b"))
        await storage.rewind([branch])
        assert [event.seq for event in await storage.history(one.key)] == [0, 1, 2]

    async def test_rewinding_of_what_stands_otherwise_by_now_changes_nothing(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        one, other = await failed(worker), await failed(worker, "other")
        owned = await worker.own("owned")
        before = await database.count("history")
        now = worker.clock.now()
        for wrong in (
            branch_of(one, 1, now, next_seq=3),
            branch_of(one, 1, now, run=1),
            branch_of(owned, 0, now),
        ):
            with pytest.raises(InstanceRunningError, match="does not stand as it did"):
                await storage.rewind([branch_of(other, 1, now), wrong])
        for gone in (branch_of(one, 1, now, execution_id=one.execution_id + 1), branch_of(one, 1, now, key=99_999)):
            with pytest.raises(InstanceNotFoundError):
                await storage.rewind([branch_of(other, 1, now), gone])
        assert await database.count("history") == before
        assert (await worker.read("other")).status is Status.FAILED

    async def test_what_was_received_behind_the_cut_is_unread_again(self, worker: Worker, storage: Storage) -> None:
        one = await failed(worker)
        await worker.create("before")
        assert (await storage.post([_post("before", "m")])) == [PostResult.POSTED]
        letter = InboxItem(0, InboxKind.MESSAGE, "news", "m", "somebody", b'"text"', 7_000_000, b'{"a":"b"}')
        await storage.rewind([branch_of(one, 1, worker.clock.now(), letters=[letter])])
        found = {claim.instance.id: claim.inbox for claim in await worker.claim_all()}
        (item,) = found["one"]
        assert msgspec.structs.replace(item, seq=0) == letter

    async def test_answers_to_attempts_are_new_again(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("one")
        answer = msgspec.structs.replace(
            _post("one", "answer/0/1:a/1"), kind=InboxKind.ACTIVITY, channel=None, body=b"{}"
        )
        assert await storage.post([answer]) == [PostResult.POSTED]
        assert await storage.post([answer]) == [PostResult.DUPLICATE]
        (mail,) = await storage.mail(worker.session)
        await worker.accepted(worker.entry(owned, END, consumed=[mail.items[0].seq], inbox_seen=1, **FAILED))
        await storage.rewind([branch_of(await worker.read("one"), 0, worker.clock.now())])
        assert await storage.post([answer]) == [PostResult.POSTED]

    async def test_end_of_a_child_is_told_again_unless_it_is_rewound_too(
        self, worker: Worker, storage: Storage
    ) -> None:
        parent = await worker.own("parent")
        await worker.accepted(worker.entry(parent, requests=[child("a"), child("b", activity_id="2:child")]))
        parent = await worker.read("parent")
        claims = {claim.instance.id: claim.instance for claim in await worker.claim_all()}
        for id in ("a", "b"):
            await worker.accepted(worker.entry(claims[id], END, **FAILED))
        (mail,) = await storage.mail(worker.session)
        consumed = [item.seq for item in mail.items]
        await worker.accepted(worker.entry(parent, END, consumed=consumed, inbox_seen=len(consumed), **FAILED))
        now = worker.clock.now()
        branch = branch_of(await worker.read("parent"), 2, now, open_children=["1:child", "2:child"])
        await storage.rewind([branch, branch_of(await worker.read("b"), 0, now)])
        (claim,) = [claim for claim in await worker.claim_all() if claim.instance.id == "parent"]
        assert [(item.kind, item.channel) for item in claim.inbox] == [(InboxKind.CHILD, "1:child")]
        (again,) = await storage.list(InstanceFilter(id_prefix="b"))
        await worker.accepted(worker.entry(again, END, **FAILED))
        assert [channel for channel, *_ in await ends_told(worker, claim.instance)] == ["2:child"]

    async def test_child_whose_parent_goes_on_and_knows_of_its_end_is_not_rewound(
        self, worker: Worker, storage: Storage
    ) -> None:
        parent = await worker.own("parent")
        await worker.accepted(worker.entry(parent, requests=[child("kid")], wake_at=None))
        (claim,) = await worker.claim_all()
        await worker.accepted(worker.entry(claim.instance, END, **FAILED))
        before = await storage.history(claim.instance.key)
        with pytest.raises(InstanceRunningError, match="its parent 'parent' goes on"):
            await storage.rewind([branch_of(await worker.read("kid"), 0, worker.clock.now())])
        assert await storage.history(claim.instance.key) == before
        assert (await worker.read("kid")).status is Status.FAILED

    async def test_child_that_was_started_behind_the_cut_is_one_no_more(self, worker: Worker, storage: Storage) -> None:
        parent = await worker.own("parent")
        await worker.accepted(worker.entry(parent, requests=[child("kid", ParentClosePolicy.ABANDON)]))
        parent = await worker.read("parent")
        await worker.accepted(worker.entry(parent, END, **FAILED))
        assert [link.id for link in await storage.children(parent.key)] == ["kid"]
        branch = branch_of(await worker.read("parent"), 0, worker.clock.now(), lost_children=["1:child"])
        await storage.rewind([branch])
        assert await storage.children(parent.key) == []
        assert (await worker.read("kid")).status is Status.PENDING

    async def test_subscriptions_are_open_again(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("one")
        answer = await worker.accepted(
            worker.entry(owned, requests=[Subscribe("1:news", "news", ChannelMode.BROADCAST)])
        )
        mailbox = msgspec.json.decode(answer.outcomes[0].payload or b"", type=str)
        owned = await worker.read("one")
        await worker.accepted(worker.entry(owned, END, **FAILED))
        branch = branch_of(await worker.read("one"), 1, worker.clock.now(), subscriptions=[("news", mailbox)])
        await storage.rewind([branch])
        assert await storage.publish([Publication("news", b'"text"', "m")]) == [PostResult.POSTED]
        assert len((await storage.hand_out(limit=10)).reached) == 1
        (claim,) = await worker.claim_all()
        assert [item.channel for item in claim.inbox] == [mailbox]

    async def test_branch_begins_as_its_source_which_stays_as_it_is(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        one = await failed(worker)
        before = await storage.history(one.key)
        clock.advance(MINUTE)
        branch = await copy_of(storage, one, 2, clock.now())
        created = await storage.branch(worker.new("other", wake_at=clock.now()), branch)
        assert created.is_new
        (claim,) = await worker.claim_all()
        first, last = branch.events
        assert claim.instance.id == "other"
        assert claim.history == [first, *map(moved, before[:2]), last]
        told = (claim.instance.started_at, claim.instance.runtime, claim.instance.drained_seq, claim.instance.run)
        assert told == (one.started_at, one.runtime, 3, one.run)
        assert await storage.history(one.key) == before
        assert await worker.read("one") == one

    async def test_branch_is_recognised_when_it_is_repeated_and_refused_where_the_id_is_taken(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        one = await failed(worker)
        new = worker.new("other")
        branch = await copy_of(storage, one, 1, worker.clock.now())
        first = await storage.branch(new, branch)
        assert (await storage.branch(new, branch)).instance.key == first.instance.key
        before = await database.count("history")
        with pytest.raises(InstanceAlreadyExistsError, match="'other' exists already"):
            await storage.branch(worker.new("other"), branch)
        with pytest.raises(InstanceNotFoundError):
            await storage.branch(
                worker.new("third"), msgspec.structs.replace(branch, execution_id=one.execution_id + 1)
            )
        with pytest.raises(InstanceRunningError, match="has begun run 0"):
            await storage.branch(worker.new("third"), msgspec.structs.replace(branch, run=1))
        other = msgspec.structs.replace(branch, kept=Event(0, 1, 0, EventKind.TIMER_FIRED, "@1", None))
        with pytest.raises(InstanceRunningError, match="was retried meanwhile"):
            await storage.branch(worker.new("third"), other)
        assert await database.count("history") == before
        assert await storage.get("third") is None

    async def test_children_of_the_source_are_attached_to_the_branch(self, worker: Worker, storage: Storage) -> None:
        parent = await worker.own("parent")
        await worker.accepted(worker.entry(parent, requests=[child("a"), child("b", activity_id="2:child")]))
        parent = await worker.read("parent")
        claims = {claim.instance.id: claim.instance for claim in await worker.claim_all()}
        await worker.accepted(worker.entry(claims["a"], END, **FAILED))
        branch = await copy_of(storage, parent, 2, worker.clock.now(), open_children=["1:child", "2:child"])
        await storage.branch(worker.new("other"), branch)
        (claim,) = await worker.claim_all()
        assert [(item.kind, item.channel) for item in claim.inbox] == [(InboxKind.CHILD, "1:child")]
        links = await storage.children(claim.instance.key)
        assert [(link.id, link.policy, link.status, link.workflow) for link in links] == [
            ("a", ParentClosePolicy.ABANDON, Status.FAILED, DEFINITION[0]),
            ("b", ParentClosePolicy.ABANDON, Status.RUNNING, DEFINITION[0]),
        ]
        await worker.accepted(worker.entry(claims["b"], END, **FAILED))
        assert [channel for channel, *_ in await ends_told(worker, claim.instance)] == ["2:child"]
        assert [channel for channel, *_ in await ends_told(worker, parent)] == ["1:child", "2:child"]

    async def test_unblocked_instance_is_claimed_by_the_build_that_blocked_it(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        owned = await worker.own("one")
        entry = worker.entry(
            owned, status=Status.BLOCKED, wake_at=clock.now(), is_freed=True, reason=b"{}", build=worker.build
        )
        await worker.accepted(entry)
        assert await worker.claim_all() == []
        await storage.unblock("one")
        (claim,) = await worker.claim_all()
        assert claim.instance.status is Status.RUNNING
        with pytest.raises(InstanceRunningError, match="'one' is not blocked: it is running"):
            await storage.unblock("one")
        with pytest.raises(InstanceNotFoundError):
            await storage.unblock("nobody")

    async def test_counts_are_those_of_the_lists(self, worker: Worker, storage: Storage) -> None:
        assert await storage.last_key() is None
        rows = [await worker.create(f"c{number}", tags={"half": str(number % 2)}) for number in range(5)]
        assert await storage.last_key() == rows[-1].key
        for where in (
            InstanceFilter(),
            InstanceFilter(id_prefix="c1"),
            InstanceFilter(tags={"half": "0"}),
            InstanceFilter(statuses=frozenset({Status.PENDING})),
            InstanceFilter(statuses=frozenset()),
            InstanceFilter(workflow="none"),
        ):
            for after in (0, rows[2].key):
                assert await storage.count(where, after=after) == len(await storage.list(where, after=after))
