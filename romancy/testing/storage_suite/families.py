"""What a parent's end means for its children, and for theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from romancy.core.events import EventKind
from romancy.core.records import NextRun, Rejected, Status
from romancy.core.requests import ParentClosePolicy
from romancy.errors import InstanceClosedError
from romancy.testing.storage_suite.children import (
    ABANDON,
    CANCEL,
    FAILURE,
    TERMINATE,
    cancels,
    child,
    ends_told,
    family,
)
from romancy.testing.storage_suite.making import CLOSING, DEFINITION, RECURRING, Worker, note
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage


class FamiliesSuite(Suite):
    """What becomes of a child when its parent ends is what its policy says, whatever the end was."""

    @pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT])
    async def test_end_of_a_parent_cancels_its_child(self, worker: Worker, status: Status) -> None:
        parent, kid = await family(worker, CANCEL)
        answer = await worker.accepted(worker.entry(parent, CLOSING, status=status, wake_at=None))
        assert answer.recipients == (kid.key,)
        assert len(await cancels(worker, kid)) == 1
        assert (await worker.read(kid.id)).status is Status.RUNNING

    async def test_end_of_a_parent_terminates_its_child(self, worker: Worker, storage: Storage) -> None:
        parent, kid = await family(worker, TERMINATE)
        answer = await worker.accepted(worker.entry(parent, CLOSING, status=Status.COMPLETED, wake_at=None))
        assert answer.ended == (kid.key,)
        after = await worker.read(kid.id)
        assert (after.status, after.session, after.wake_at) == (Status.TERMINATED, None, None)
        assert [e.kind for e in await storage.history(kid.key)] == [EventKind.RUN_TERMINATED]
        (late,) = await worker.commit(worker.entry(kid, note()))
        assert isinstance(late, Rejected)

    async def test_end_of_a_parent_leaves_an_abandoned_child(self, worker: Worker) -> None:
        parent, kid = await family(worker, ABANDON)
        await worker.close(parent)
        assert await worker.read(kid.id) == kid

    async def test_end_of_an_attached_parent_leaves_the_child(self, worker: Worker) -> None:
        """It belongs to whoever has started it."""
        _, kid = await family(worker, CANCEL, "first")
        second = await worker.own("second")
        request = child(kid.id, TERMINATE, is_attaching=True)
        await worker.close(await worker.advance(second, requests=[request]))
        assert await worker.read(kid.id) == kid

    async def test_end_of_a_parent_leaves_a_child_that_has_ended(self, worker: Worker) -> None:
        parent, kid = await family(worker, TERMINATE)
        kid = await worker.close(kid)
        await worker.close(await worker.read(parent.id))
        assert await worker.read(kid.id) == kid

    async def test_termination_by_a_policy_is_passed_on_except_to_what_was_abandoned(self, worker: Worker) -> None:
        parent, kid = await family(worker, TERMINATE)
        await worker.advance(
            kid,
            requests=[
                child("cancelled", CANCEL, activity_id="1:a"),
                child("abandoned", ABANDON, activity_id="2:b"),
            ],
        )
        await worker.close(parent)
        assert [(await worker.read(id)).status for id in (kid.id, "cancelled", "abandoned")] == [
            Status.TERMINATED,
            Status.TERMINATED,
            Status.PENDING,
        ]

    async def test_terminate_ends_all_that_was_started_except_what_was_abandoned(
        self, worker: Worker, storage: Storage
    ) -> None:
        parent = await worker.own("parent")
        await worker.advance(
            parent,
            requests=[child(policy.value, policy, activity_id=f"{n}:c") for n, policy in enumerate(ParentClosePolicy)],
        )
        ended = await storage.terminate("parent", FAILURE)
        keys = {id: (await worker.read(id)).key for id in ("parent", "cancel", "terminate")}
        assert sorted(ended) == sorted(keys.values())
        assert (await worker.read("abandon")).status is Status.PENDING
        assert [(await storage.history(parent.key))[-1].payload] == [FAILURE]
        assert [e.kind for e in await storage.history(keys["cancel"])] == [EventKind.RUN_TERMINATED]

    async def test_terminate_that_is_not_recursive_is_an_end_like_any_other(
        self, worker: Worker, storage: Storage
    ) -> None:
        parent, kid = await family(worker, CANCEL)
        assert list(await storage.terminate("parent", FAILURE, is_recursive=False)) == [parent.key]
        assert (await worker.read(kid.id)).status is Status.RUNNING
        assert len(await cancels(worker, kid)) == 1

    async def test_terminate_reaches_children_of_what_has_ended(self, worker: Worker, storage: Storage) -> None:
        parent, kid = await family(worker, CANCEL)
        await worker.advance(kid, requests=[child("grandchild", CANCEL)])
        await worker.close(await worker.read(kid.id))
        await worker.close(await worker.read(parent.id))
        grandchild = await worker.read("grandchild")
        assert list(await storage.terminate("parent", FAILURE)) == [grandchild.key]
        assert (await worker.read("grandchild")).status is Status.TERMINATED
        with pytest.raises(InstanceClosedError, match="'parent'"):
            await storage.terminate("parent", FAILURE)

    async def test_terminate_tells_the_parent_of_what_is_terminated(self, worker: Worker, storage: Storage) -> None:
        parent, kid = await family(worker, CANCEL)
        await storage.terminate(kid.id, FAILURE)
        assert await ends_told(worker, parent) == [("1:child", kid.id, 0, Status.TERMINATED, FAILURE)]

    async def test_terminate_goes_around_in_a_circle_once(self, worker: Worker, storage: Storage) -> None:
        """Attached parents make circles; attached children are abandoned, and the one started first is not."""
        parent, kid = await family(worker, TERMINATE)
        await worker.advance(kid, requests=[child("parent", TERMINATE, is_attaching=True)])
        assert sorted(await storage.terminate("parent", FAILURE)) == sorted([parent.key, kid.key])

    async def test_child_that_recurs_ends_with_its_parent(self, worker: Worker) -> None:
        parent, kid = await family(worker, TERMINATE)
        second = await worker.advance(kid, RECURRING, next_run=NextRun(*DEFINITION, b"[2]"))
        await worker.close(parent)
        after = await worker.read(kid.id)
        assert (after.run, after.status) == (second.run, Status.TERMINATED)

    async def test_parent_that_was_restarted_has_no_children(self, worker: Worker, storage: Storage) -> None:
        parent, kid = await family(worker, ABANDON)
        await worker.close(parent)
        again = await worker.create("parent", on_conflict="restart")
        assert list(await storage.terminate("parent", FAILURE)) == [again.key]
        assert await worker.read(kid.id) == kid
