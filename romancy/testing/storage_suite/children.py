"""Children: how they start, how their ends are told, and what their parents' ends mean for them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec

from romancy.core.events import ChildEnd, EventKind, Note
from romancy.core.records import Accepted, InboxKind, Instance, NextRun, Refused, Rejected, Status
from romancy.core.requests import CancelChild, ChildOutcome, ParentClosePolicy, StartChild
from romancy.testing.storage_suite.making import (
    CLOSING,
    DEFINITION,
    MINUTE,
    NEVER,
    RECURRING,
    Worker,
    about,
    note,
    payloads,
)
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

CANCEL = ParentClosePolicy.CANCEL
TERMINATE = ParentClosePolicy.TERMINATE
ABANDON = ParentClosePolicy.ABANDON
FAILURE = b'{"type":"mine"}'

_execution_ids = itertools.count(10_000)


def child(
    id: str, policy: ParentClosePolicy = CANCEL, *, activity_id: str = "1:child", is_attaching: bool = False
) -> StartChild:
    """Return a request to start a child that has not been asked for before."""
    return StartChild(activity_id, id, next(_execution_ids), *DEFINITION, b"[1]", policy, is_attaching=is_attaching)


async def family(worker: Worker, policy: ParentClosePolicy, parent: str = "parent") -> tuple[Instance, Instance]:
    """Make a parent that sleeps, and its child, both owned by the worker."""
    started = await worker.advance(await worker.own(parent), requests=[child(f"{parent}'s", policy)], wake_at=None)
    (claim,) = [claim for claim in await worker.claim_all() if claim.instance.id == f"{parent}'s"]
    return started, claim.instance


async def ends_told(worker: Worker, parent: Instance) -> list[tuple[str | None, str | None, int, int, bytes]]:
    """Return what a parent finds in its inbox of its children's ends: whose, which run's, how, with what."""
    found: list[tuple[str | None, str | None, int, int, bytes]] = []
    for mail in await worker.storage.mail(worker.session):
        for item in mail.items if mail.key == parent.key else ():
            assert item.kind is InboxKind.CHILD
            end = msgspec.json.decode(item.body, type=ChildEnd)
            found.append((item.channel, item.sender, end.run, end.status, bytes(end.payload)))
    return found


async def cancels(worker: Worker, instance: Instance) -> list[bytes]:
    """Return the reasons of the cancels in an instance's inbox."""
    return [
        item.body
        for mail in await worker.storage.mail(worker.session)
        for item in mail.items
        if mail.key == instance.key and item.kind is InboxKind.CANCEL
    ]


class ChildrenSuite(Suite):
    """A child starts with its parent's turn, and its end is told once to all that wait for it."""

    async def test_child_is_created_by_its_parent_s_turn(self, worker: Worker, clock: AdjustableClock) -> None:
        parent = await worker.own("parent")
        clock.advance(MINUTE)
        request = child("kid", activity_id="7:child")
        answer = await worker.accepted(worker.entry(parent, requests=[request]))
        assert payloads(answer) == [b"%d" % ChildOutcome.STARTED]
        assert [(e.kind, e.activity_id) for e in answer.outcomes] == [(EventKind.CHILD_STARTED, "7:child")]
        kid = await worker.read("kid")
        assert answer.recipients == (kid.key,)
        assert (kid.execution_id, kid.workflow, kid.version, kid.input) == (request.execution_id, *DEFINITION, b"[1]")
        assert (kid.status, kid.session, kid.created_at) == (Status.PENDING, None, about(clock.now()))
        (claim,) = await worker.claim_all()
        assert claim.instance.key == kid.key

    async def test_child_has_the_trace_context_of_its_request(self, worker: Worker) -> None:
        parent = await worker.own("parent")
        request = msgspec.structs.replace(child("kid"), trace_context='{"traceparent":"x"}')
        await worker.accepted(worker.entry(parent, requests=[request]))
        assert (await worker.read("kid")).trace_context == '{"traceparent":"x"}'

    async def test_child_of_a_rejected_entry_does_not_exist(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        parent = await worker.own("parent")
        (answer,) = await worker.commit(worker.entry(parent, note(), seq=5, requests=[child("kid")]))
        assert isinstance(answer, Rejected)
        assert await storage.get("kid") is None
        assert await database.count("children") == 0

    async def test_child_of_a_refused_entry_does_not_exist(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        parent, other = await worker.own("parent"), await worker.own("other")
        answers = await worker.commit(
            worker.entry(parent, note("\ud800"), requests=[child("kid")]),
            worker.entry(other, requests=[child("other's")]),
        )
        assert [type(answer) for answer in answers] == [Refused, Accepted]
        assert await storage.get("kid") is None
        assert await storage.get("other's") is not None
        assert await database.count("children") == 1

    async def test_child_with_a_taken_id_is_not_started(self, worker: Worker, database: Database) -> None:
        taken = await worker.create("taken")
        parent = await worker.own("parent")
        answer = await worker.accepted(worker.entry(parent, requests=[child("taken")]))
        assert (payloads(answer), answer.recipients) == ([b"%d" % ChildOutcome.EXISTS], ())
        assert (await worker.read("taken")).execution_id == taken.execution_id
        assert await database.count("children") == 0

    async def test_children_of_one_batch_with_the_same_id_are_one(self, worker: Worker) -> None:
        one, other = await worker.own("one"), await worker.own("other")
        answers = await worker.commit(
            worker.entry(one, requests=[child("kid", activity_id="1:a"), child("kid", activity_id="2:b")]),
            worker.entry(other, requests=[child("kid")]),
        )
        outcomes = [outcome for answer in answers for outcome in payloads(answer)]
        assert sorted(outcomes, key=str) == [b"0", b"1", b"1"]

    async def test_own_id_can_not_be_attached_to(self, worker: Worker) -> None:
        parent = await worker.own("parent")
        answer = await worker.accepted(worker.entry(parent, requests=[child("parent", is_attaching=True)]))
        assert payloads(answer) == [b"%d" % ChildOutcome.EXISTS]

    async def test_attached_child_tells_all_its_parents(self, worker: Worker) -> None:
        first, kid = await family(worker, CANCEL, "first")
        second = await worker.own("second")
        request = child(kid.id, activity_id="4:child", is_attaching=True)
        answer = await worker.accepted(worker.entry(second, requests=[request], wake_at=None))
        assert payloads(answer) == [b"%d" % ChildOutcome.ATTACHED]
        await worker.close(kid)
        assert await ends_told(worker, first) == [("1:child", kid.id, 0, Status.COMPLETED, b"null")]
        assert await ends_told(worker, second) == [("4:child", kid.id, 0, Status.COMPLETED, b"null")]

    async def test_attaching_to_what_has_ended_tells_at_once(self, worker: Worker) -> None:
        await worker.close(await worker.own("ended"))
        parent = await worker.own("parent")
        entry = worker.entry(parent, requests=[child("ended", is_attaching=True)], wake_at=None)
        answer = await worker.accepted(entry)
        assert (payloads(answer), answer.mailed) == ([b"%d" % ChildOutcome.ATTACHED], True)
        assert await ends_told(worker, parent) == [("1:child", "ended", 0, Status.COMPLETED, b"null")]
        assert (await worker.read("parent")).wake_at == about(worker.clock.now())

    async def test_attaching_to_what_has_ended_tells_nobody_again(self, worker: Worker) -> None:
        first, kid = await family(worker, ABANDON, "first")
        await worker.close(kid)
        second = await worker.own("second")
        await worker.advance(second, requests=[child(kid.id, is_attaching=True)], wake_at=None)
        assert [len(await ends_told(worker, parent)) for parent in (first, second)] == [1, 1]

    async def test_end_of_a_child_is_told_with_its_last_event(self, worker: Worker) -> None:
        parent, kid = await family(worker, ABANDON)
        closing = worker.entry(
            kid, note(), Note(EventKind.RUN_FAILED, None, b'{"why":1}'), status=Status.FAILED, wake_at=None
        )
        answer = await worker.accepted(closing)
        assert answer.recipients == (parent.key,)
        assert await ends_told(worker, parent) == [("1:child", kid.id, 0, Status.FAILED, b'{"why":1}')]
        assert (await worker.read("parent")).wake_at == about(worker.clock.now())

    async def test_end_of_a_child_is_told_once(self, worker: Worker) -> None:
        parent, kid = await family(worker, ABANDON)
        closing = worker.entry(kid, CLOSING, status=Status.COMPLETED, wake_at=None)
        await worker.accepted(closing)
        await worker.accepted(closing)
        assert len(await ends_told(worker, parent)) == 1

    async def test_end_of_a_child_wakes_a_parent_that_nobody_owns(self, worker: Worker) -> None:
        parent, kid = await family(worker, ABANDON)
        await worker.advance(parent, wake_at=NEVER, is_freed=True)
        await worker.close(kid)
        (claim,) = await worker.claim_all()
        assert (claim.instance.key, [item.kind for item in claim.inbox]) == (parent.key, [InboxKind.CHILD])

    async def test_child_and_parent_that_end_in_one_batch(self, worker: Worker) -> None:
        parent, kid = await family(worker, CANCEL)
        answers = await worker.commit(
            worker.entry(parent, CLOSING, status=Status.COMPLETED, wake_at=None),
            worker.entry(kid, CLOSING, status=Status.COMPLETED, wake_at=None),
        )
        assert [type(answer) for answer in answers] == [Accepted, Accepted]
        assert [(await worker.read(id)).inbox_seq for id in (parent.id, kid.id)] == [0, 0]

    async def test_recurring_child_has_not_ended(self, worker: Worker) -> None:
        parent, kid = await family(worker, CANCEL)
        second = await worker.advance(kid, RECURRING, next_run=NextRun(*DEFINITION, b"[2]"))
        assert await ends_told(worker, parent) == []
        await worker.close(second)
        assert [status for *_, status, _ in await ends_told(worker, parent)] == [Status.COMPLETED]

    async def test_recurring_parent_keeps_its_children(self, worker: Worker) -> None:
        parent, kid = await family(worker, CANCEL)
        second = await worker.advance(parent, RECURRING, next_run=NextRun(*DEFINITION, b"[2]"), wake_at=None)
        assert await cancels(worker, kid) == []
        await worker.close(kid)
        assert await ends_told(worker, second) == [("1:child", kid.id, 0, Status.COMPLETED, b"null")]

    async def test_end_of_a_child_of_a_purged_parent_reaches_nobody(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        parent, kid = await family(worker, ABANDON)
        await worker.close(parent)
        await storage.purge("parent")
        again = await worker.own("parent")
        await worker.close(kid)
        assert await worker.read("parent") == again
        assert await database.count("children") == 0

    async def test_purged_child_leaves_no_link(self, worker: Worker, storage: Storage, database: Database) -> None:
        _, kid = await family(worker, CANCEL)
        await worker.close(kid)
        await storage.purge(kid.id)
        assert await database.count("children") == 0

    async def test_cancel_of_a_child_reaches_it_once_a_turn(self, worker: Worker) -> None:
        parent, kid = await family(worker, ABANDON)
        order = CancelChild("1:child", "enough")
        answer = await worker.accepted(worker.entry(parent, note(), orders=[order], wake_at=None))
        assert kid.key in answer.recipients
        await worker.advance(await worker.read("parent"), note(), orders=[order], wake_at=None)
        assert await cancels(worker, kid) == [b'"enough"']

    async def test_cancels_of_a_child_in_two_turns_are_two(self, worker: Worker) -> None:
        _, kid = await family(worker, ABANDON)
        for turn in (2, 3):
            order = CancelChild("1:child", f"enough in {turn}", turn)
            await worker.advance(await worker.read("parent"), note(), orders=[order], wake_at=None)
        assert await cancels(worker, kid) == [b'"enough in 2"', b'"enough in 3"']

    async def test_cancel_of_a_child_that_is_not_there_or_has_ended_does_nothing(self, worker: Worker) -> None:
        parent, kid = await family(worker, ABANDON)
        kid = await worker.close(kid)
        orders = [CancelChild("1:child"), CancelChild("9:child")]
        await worker.advance(parent, note(), orders=orders, wake_at=None)
        assert await worker.read(kid.id) == kid

    async def test_cancel_of_a_child_can_follow_its_start_in_one_turn(self, worker: Worker) -> None:
        parent = await worker.own("parent")
        await worker.advance(parent, requests=[child("kid")], orders=[CancelChild("1:child")])
        (claim,) = [claim for claim in await worker.claim_all() if claim.instance.id == "kid"]
        assert [item.kind for item in claim.inbox] == [InboxKind.CANCEL]
