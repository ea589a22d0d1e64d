"""Families that are spread over processes."""

from __future__ import annotations

import pytest

from romancy.core.records import Accepted, InboxKind, Status
from romancy.core.requests import CancelChild, ParentClosePolicy
from romancy.testing.storage_suite.children import ABANDON, child
from romancy.testing.storage_suite.making import CLOSING, Worker, note, send
from romancy.testing.storage_suite.races import ROUNDS, race
from romancy.testing.storage_suite.suite import Suite


class FamilyRacesSuite(Suite):
    """Parents and children that do something to each other at once, in different processes."""

    async def test_end_of_a_child_does_not_miss_a_parent_that_is_being_parked(
        self, workers: tuple[Worker, Worker]
    ) -> None:
        one, other = workers
        for number in range(ROUNDS):
            parent = await one.advance(await one.own(f"p{number}"), requests=[child(f"k{number}")])
            (claim,) = await other.claim_all()
            parking = one.entry(parent, note(), wake_at=None, is_freed=True)
            await race(one.accepted(parking), other.close(claim.instance))
            (claim,) = await one.claim_all()
            assert (claim.instance.key, [item.kind for item in claim.inbox]) == (parent.key, [InboxKind.CHILD])
            await one.close(claim.instance)

    @pytest.mark.parametrize("policy", list(ParentClosePolicy))
    async def test_parent_and_child_end_at_once(
        self, workers: tuple[Worker, Worker], policy: ParentClosePolicy
    ) -> None:
        one, other = workers
        for number in range(ROUNDS):
            parent = await one.advance(await one.own(f"p{number}"), requests=[child(f"k{number}", policy)])
            (claim,) = await other.claim_all()
            closing = other.entry(claim.instance, CLOSING, status=Status.COMPLETED, wake_at=None)
            await race(one.close(parent), other.commit(closing))
            assert (await one.read(parent.id)).status is Status.COMPLETED
            kid = await one.read(f"k{number}")
            assert kid.status in {Status.COMPLETED, Status.TERMINATED}
            assert len(await one.storage.history(kid.key)) == 1

    async def test_parent_that_attaches_to_a_child_that_is_ending_is_told_once(
        self, workers: tuple[Worker, Worker]
    ) -> None:
        one, other = workers
        for number in range(ROUNDS):
            kid, parent = await other.own(f"k{number}"), await one.own(f"p{number}")
            attaching = one.entry(parent, requests=[child(kid.id, is_attaching=True)], wake_at=None, is_freed=True)
            await race(one.accepted(attaching), other.close(kid))
            (claim,) = await one.claim_all()
            assert (claim.instance.key, [item.kind for item in claim.inbox]) == (parent.key, [InboxKind.CHILD])
            await one.close(claim.instance)

    async def test_termination_of_a_family_races_with_the_commits_of_its_members(
        self, workers: tuple[Worker, Worker]
    ) -> None:
        one, other = workers
        for number in range(ROUNDS):
            requests = [child(f"k{number}.{n}", activity_id=f"{n}:c") for n in range(5)]
            parent = await one.advance(await one.own(f"p{number}"), requests=requests)
            kids = [claim.instance for claim in await other.claim_all()]
            batch = [
                other.entry(kid, note(), requests=[send(parent.id), child(f"g{kid.id}")], is_freed=True)
                for kid in reversed(kids)
            ]
            ended, answers = await race(one.storage.terminate(parent.id, b"{}"), other.commit(*batch))
            written = [isinstance(answer, Accepted) for answer in answers]
            assert len(set(written)) == 1  # a batch is one transaction
            grandchildren = [await one.storage.get(f"g{kid.id}") for kid in kids]
            assert [grandchild is not None for grandchild in grandchildren] == written
            assert len(ended) == 1 + len(kids) + sum(written)
            assert await one.claim_all() == []

    async def test_cancel_of_a_child_that_is_ending(self, workers: tuple[Worker, Worker]) -> None:
        one, other = workers
        for number in range(ROUNDS):
            parent = await one.advance(await one.own(f"p{number}"), requests=[child(f"k{number}", ABANDON)])
            (claim,) = await other.claim_all()
            cancelling = one.entry(parent, note(), orders=[CancelChild("1:child")], wake_at=None)
            await race(one.accepted(cancelling), other.close(claim.instance))
            assert (await one.read(f"k{number}")).status is Status.COMPLETED
            (mail,) = [mail for mail in await one.storage.mail(one.session) if mail.key == parent.key]
            assert [item.kind for item in mail.items] == [InboxKind.CHILD]
