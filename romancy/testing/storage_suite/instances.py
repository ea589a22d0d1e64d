"""Creating, reading, listing, terminating and purging instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import pytest

from romancy.core.records import (
    Instance,
    InstanceFilter,
    NewInstance,
    NextRun,
    OpenCounts,
    PostResult,
    Standing,
    Status,
)
from romancy.core.requests import ChannelMode, ParentClosePolicy, StartChild, Subscribe
from romancy.errors import InstanceAlreadyExistsError, InstanceClosedError, InstanceNotFoundError, InstanceRunningError
from romancy.testing.storage_suite.making import (
    CLOSING,
    DEFINITION,
    MINUTE,
    NEVER,
    RECURRING,
    Worker,
    about,
    note,
    outlive,
    post,
    tags_of,
)
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

LARGEST_EXECUTION_ID = 2**62 - 1


class InstancesSuite(Suite):
    """An id names one instance; what clients ask of it is done once, whole, and seen by who reads next."""

    async def test_create_writes_a_pending_instance(self, storage: Storage, clock: AdjustableClock) -> None:
        new = NewInstance(
            "order-1",
            LARGEST_EXECUTION_ID,
            *DEFINITION,
            b"[1]",
            clock.now() + 1,
            trace_context="00-ab-cd-01",
            deadline=NEVER,
            priority=-3,
            tags={"region": "eu"},
        )
        creation = await storage.create(new)
        assert creation.is_new
        assert creation.instance == Instance(
            key=creation.instance.key,
            id="order-1",
            execution_id=LARGEST_EXECUTION_ID,
            workflow="order",
            version="1",
            status=Status.PENDING,
            run=0,
            next_seq=0,
            drained_seq=0,
            input=b"[1]",
            session=None,
            wake_at=new.wake_at,
            inbox_seq=0,
            inbox_seen=0,
            waiting_on=None,
            reason=None,
            build=None,
            runtime=None,
            recoveries=0,
            trace_context="00-ab-cd-01",
            created_at=creation.instance.created_at,
            started_at=None,
            closed_at=None,
            deadline=NEVER,
            priority=-3,
            tags=creation.instance.tags,
        )
        assert creation.instance.created_at == about(clock.now())
        assert tags_of(creation.instance) == {"region": "eu"}
        assert await storage.get("order-1") == creation.instance

    async def test_create_refuses_a_taken_id(self, worker: Worker) -> None:
        first = await worker.create("x")
        with pytest.raises(InstanceAlreadyExistsError, match="'x'"):
            await worker.create("x")
        assert await worker.read("x") == first

    async def test_create_attaches(self, worker: Worker, storage: Storage) -> None:
        first = await worker.create("x")
        creation = await storage.create(worker.new("x"), "attach")
        assert (creation.instance, creation.is_new) == (first, False)

    async def test_create_attaches_to_a_closed_instance(self, worker: Worker, storage: Storage) -> None:
        closed = await worker.close(await worker.own("x"))
        creation = await storage.create(worker.new("x"), "attach")
        assert (creation.instance, creation.is_new) == (closed, False)

    async def test_create_restarts_a_closed_instance_from_nothing(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.post([post("x")])
        closed = await worker.close(await worker.advance(owned, note()))
        new = worker.new("x", input=b"[2]")
        creation = await storage.create(new, "restart")
        assert creation.is_new
        restarted = creation.instance
        assert (restarted.execution_id, restarted.input, restarted.status) == (
            new.execution_id,
            b"[2]",
            Status.PENDING,
        )
        assert (restarted.next_seq, restarted.inbox_seq, restarted.closed_at) == (0, 0, None)
        assert restarted.key != closed.key
        assert await storage.history(restarted.key) == await storage.history(closed.key) == []
        (claim,) = await worker.claim_all()
        assert (claim.inbox, claim.history) == ([], [])

    async def test_create_does_not_restart_a_running_instance(self, worker: Worker) -> None:
        owned = await worker.own("x")
        with pytest.raises(InstanceRunningError, match="'x'"):
            await worker.create("x", on_conflict="restart")
        assert await worker.read("x") == owned

    @pytest.mark.parametrize("on_conflict", ["raise", "attach", "restart"])
    async def test_create_recognises_its_own_row(
        self, worker: Worker, storage: Storage, on_conflict: Literal["raise", "attach", "restart"]
    ) -> None:
        new = worker.new("x")
        await storage.create(new, on_conflict)
        advanced = await worker.advance((await worker.claim_all())[0].instance, note())
        creation = await storage.create(new, on_conflict)
        assert (creation.instance, creation.is_new) == (advanced, True)

    async def test_create_restarts_once_when_it_is_repeated(self, worker: Worker, storage: Storage) -> None:
        await worker.close(await worker.own("x"))
        new = worker.new("x")
        first = await storage.create(new, "restart")
        assert await storage.create(new, "restart") == first

    async def test_keys_are_never_used_again(self, worker: Worker, storage: Storage) -> None:
        instance = await worker.create("x")
        await storage.terminate("x", b"{}")
        await storage.purge("x")
        assert (await worker.create("x")).key > instance.key

    async def test_ids_are_any_text(self, worker: Worker) -> None:
        for id in ("", "ü/😀 '\"%_", "a\nb", "A", "a"):
            created = (
                await worker.create(id)
                if id
                else (await worker.storage.create(msgspec.structs.replace(worker.new("y"), id=id))).instance
            )
            assert await worker.read(id) == created

    async def test_get_of_an_unknown_id_is_none(self, storage: Storage) -> None:
        assert await storage.get("nobody") is None

    async def test_get_many_reads_the_rows_that_exist_in_the_order_of_keys(
        self, worker: Worker, storage: Storage
    ) -> None:
        first, second = await worker.create("b"), await worker.create("a")
        assert await storage.get_many([second.key, 10**6, first.key]) == [first, second]
        assert await storage.get_many([]) == []

    async def test_count_open_leaves_out_what_has_ended(self, worker: Worker, storage: Storage) -> None:
        assert await storage.count_open() == OpenCounts({}, 0)
        await worker.close(await worker.own("ended"))
        await worker.own("owned")
        await worker.create("pending")
        await worker.create("paused")
        await storage.pause("paused")
        counts = {Status.PENDING: 1, Status.RUNNING: 1, Status.PAUSED: 1}
        assert await storage.count_open() == OpenCounts(counts, cold=2)

    async def test_standings_are_of_the_keys_that_exist(self, worker: Worker, storage: Storage) -> None:
        closed = await worker.close(await worker.advance(await worker.own(), note()))
        pending = await worker.create()
        assert await storage.standings([closed.key, pending.key, 10**6]) == {
            closed.key: Standing(Status.COMPLETED, *DEFINITION, CLOSING.payload),
            pending.key: Standing(Status.PENDING, *DEFINITION),
        }
        assert await storage.standings([]) == {}

    async def test_standing_is_that_of_the_latest_run(self, worker: Worker, storage: Storage) -> None:
        first = await worker.own("x")
        second = await worker.advance(first, note(), RECURRING, next_run=NextRun("other", "7", b"[2]"))
        assert await storage.standings([first.key]) == {first.key: Standing(Status.RUNNING, "other", "7")}
        await worker.close(second)
        ended = Standing(Status.COMPLETED, "other", "7", CLOSING.payload)
        assert await storage.standings([first.key]) == {first.key: ended}

    async def test_standing_of_a_terminated_instance(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.terminate("x", b'{"type":"x"}')
        ended = Standing(Status.TERMINATED, *DEFINITION, b'{"type":"x"}')
        assert await storage.standings([owned.key]) == {owned.key: ended}

    async def test_terminate_ends_an_owned_instance(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        owned = await worker.advance(await worker.own("x"), note(), waiting_on=b"[]", wake_at=None, turn=3)
        clock.advance(5 * MINUTE)
        await storage.terminate("x", b'{"type":"x"}')
        after = await worker.read("x")
        assert (after.status, after.session, after.wake_at) == (Status.TERMINATED, None, None)
        assert (after.closed_at, after.waiting_on, after.next_seq) == (about(clock.now()), None, owned.next_seq + 1)
        last = (await storage.history(owned.key))[-1]
        assert (last.seq, last.turn, last.stamp, last.payload) == (1, 4, after.closed_at, b'{"type":"x"}')

    async def test_terminate_ends_a_pending_instance(self, worker: Worker, storage: Storage) -> None:
        created = await worker.create("x")
        await storage.terminate("x", b"{}")
        assert await worker.claim_all() == []
        assert [(e.seq, e.turn) for e in await storage.history(created.key)] == [(0, 1)]

    async def test_terminate_of_an_unknown_id(self, storage: Storage) -> None:
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await storage.terminate("nobody", b"{}")

    async def test_terminate_of_a_closed_instance(self, worker: Worker, storage: Storage) -> None:
        closed = await worker.close(await worker.own("x"))
        with pytest.raises(InstanceClosedError, match=r"'x'.*completed"):
            await storage.terminate("x", b"{}")
        assert await worker.read("x") == closed

    async def test_terminated_instance_takes_no_posts(self, worker: Worker, storage: Storage) -> None:
        await worker.create("x")
        await storage.terminate("x", b"{}")
        assert await storage.post([post("x")]) == [PostResult.CLOSED]

    async def test_purge_leaves_nothing(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.post([post("x")])
        await worker.close(await worker.advance(owned, note()))
        await storage.purge("x")
        assert await storage.get("x") is None
        assert await storage.history(owned.key, run=0) == []
        assert await storage.standings([owned.key]) == {}

    async def test_purge_leaves_no_row(self, worker: Worker, storage: Storage, database: Database) -> None:
        before = await database.counts()
        owned = await worker.own("x", tags={"region": "eu"})
        await storage.post([post("x")])
        second = await worker.advance(owned, note(), RECURRING, next_run=NextRun(*DEFINITION, b"[2]"))
        child = StartChild("1:child", "child", 1, *DEFINITION, b"[]", ParentClosePolicy.ABANDON)
        await worker.close(
            await worker.advance(second, requests=[child, Subscribe("2:news", "news", ChannelMode.BROADCAST)])
        )
        await storage.terminate("child", b"{}")
        await storage.purge("child")
        await storage.purge("x")
        assert await database.counts() == {**before, "channels": before["channels"] + 2}

    async def test_purge_reaches_what_was_started_and_not_abandoned(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        before = await database.counts()
        await worker.create("other")
        parent = await worker.own("parent")
        policies = {"kept": ParentClosePolicy.CANCEL, "left": ParentClosePolicy.ABANDON}
        requests = [
            StartChild(f"{number}:child", id, number, *DEFINITION, b"[]", policy)
            for number, (id, policy) in enumerate(policies.items(), 1)
        ]
        await worker.close(await worker.advance(parent, requests=requests))
        (kept,) = [claim for claim in await worker.claim_all() if claim.instance.id == "kept"]
        grandchild = StartChild("1:child", "grandchild", 7, *DEFINITION, b"[]", ParentClosePolicy.CANCEL)
        await worker.close(await worker.advance(kept.instance, requests=[grandchild]))
        with pytest.raises(InstanceRunningError, match=r"'grandchild', which 'parent' has started,.*terminate"):
            await storage.purge("parent")
        assert await storage.get("parent") is not None
        await storage.terminate("grandchild", b"{}")
        assert len(await storage.purge("parent")) == 3
        assert [found.id for found in await storage.list(InstanceFilter())] == ["other", "left"]
        await storage.terminate("left", b"{}")
        await storage.terminate("other", b"{}")
        assert [len(await storage.purge(id)) for id in ("left", "other")] == [1, 1]
        assert await database.counts() == before

    async def test_purge_of_one_alone_leaves_what_it_has_started(self, worker: Worker, storage: Storage) -> None:
        parent = await worker.own("parent")
        child = StartChild("1:child", "child", 1, *DEFINITION, b"[]", ParentClosePolicy.CANCEL)
        await worker.close(await worker.advance(parent, requests=[child]))
        assert await storage.purge("parent", is_recursive=False) == [parent.key]
        assert (await worker.read("child")).status is Status.PENDING

    async def test_purge_of_a_running_instance(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        with pytest.raises(InstanceRunningError, match=r"'x'.*terminate"):
            await storage.purge("x")
        assert await worker.read("x") == owned

    async def test_purge_of_an_unknown_id(self, storage: Storage) -> None:
        with pytest.raises(InstanceNotFoundError):
            await storage.purge("nobody")

    async def test_create_for_a_session_writes_an_owned_instance(self, worker: Worker, clock: AdjustableClock) -> None:
        created = await worker.create(session=worker.session)
        assert (created.session, created.status) == (worker.session, Status.RUNNING)
        assert (created.started_at, created.runtime, created.begun_by) == (about(clock.now()), "here", worker.build)
        assert await worker.read(created.id) == created
        assert await worker.claim_all() == []
        assert (await worker.close(created)).status is Status.COMPLETED

    async def test_create_for_a_dead_session_writes_a_pending_instance(
        self, worker: Worker, clock: AdjustableClock
    ) -> None:
        outlive(clock)
        created = await worker.create(session=worker.session)
        assert (created.session, created.status, created.started_at) == (None, Status.PENDING, None)

    async def test_owned_from_creation_is_claimable_when_its_owner_dies(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        created = await worker.create(session=worker.session)
        outlive(clock)
        assert await storage.reap_sessions() == 1
        other = await Worker.start(storage, clock)
        (claim,) = await other.claim_all()
        assert claim.instance.key == created.key
        assert claim.instance.started_at == created.started_at
