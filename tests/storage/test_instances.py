"""Creating, reading, listing, terminating and purging instances."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from romancy.core.clock import ManualClock
from romancy.core.records import Instance, InstanceFilter, NewInstance, PostResult, Status
from romancy.errors import (
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
)
from romancy.storage.protocol import Storage
from romancy.storage.sqlite import SqliteStorage

from .making import DEFINITION, SECOND, Worker, note, post

pytestmark = pytest.mark.anyio

LARGEST_EXECUTION_ID = 2**62 - 1


async def test_create_writes_a_pending_instance(storage: Storage, clock: ManualClock) -> None:
    new = NewInstance(
        "order-1",
        LARGEST_EXECUTION_ID,
        *DEFINITION,
        b"[1]",
        clock.now() + SECOND,
        trace_context="00-ab-cd-01",
        deadline=clock.now() + 9 * SECOND,
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
        wake_at=clock.now() + SECOND,
        inbox_seq=0,
        inbox_seen=0,
        waiting_on=None,
        reason=None,
        build=None,
        runtime=None,
        recoveries=0,
        trace_context="00-ab-cd-01",
        created_at=clock.now(),
        started_at=None,
        closed_at=None,
        deadline=clock.now() + 9 * SECOND,
    )
    assert await storage.get("order-1") == creation.instance


async def test_create_refuses_a_taken_id(worker: Worker) -> None:
    first = await worker.create("x")
    with pytest.raises(InstanceAlreadyExistsError, match="'x'"):
        await worker.create("x")
    assert await worker.read("x") == first


async def test_create_attaches(worker: Worker, storage: Storage) -> None:
    first = await worker.create("x")
    creation = await storage.create(worker.new("x"), "attach")
    assert (creation.instance, creation.is_new) == (first, False)


async def test_create_attaches_to_a_closed_instance(worker: Worker, storage: Storage) -> None:
    closed = await worker.close(await worker.own("x"))
    creation = await storage.create(worker.new("x"), "attach")
    assert (creation.instance, creation.is_new) == (closed, False)


async def test_create_restarts_a_closed_instance_from_nothing(worker: Worker, storage: Storage) -> None:
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


async def test_create_does_not_restart_a_running_instance(worker: Worker) -> None:
    owned = await worker.own("x")
    with pytest.raises(InstanceRunningError, match="'x'"):
        await worker.create("x", on_conflict="restart")
    assert await worker.read("x") == owned


@pytest.mark.parametrize("on_conflict", ["raise", "attach", "restart"])
async def test_create_recognises_its_own_row(
    worker: Worker, storage: Storage, on_conflict: Literal["raise", "attach", "restart"]
) -> None:
    new = worker.new("x")
    await storage.create(new, on_conflict)
    advanced = await worker.advance((await worker.claim_all())[0].instance, note())
    creation = await storage.create(new, on_conflict)
    assert (creation.instance, creation.is_new) == (advanced, True)


async def test_create_restarts_once_when_it_is_repeated(worker: Worker, storage: Storage) -> None:
    await worker.close(await worker.own("x"))
    new = worker.new("x")
    first = await storage.create(new, "restart")
    assert await storage.create(new, "restart") == first


async def test_keys_are_never_used_again(worker: Worker, storage: Storage) -> None:
    instance = await worker.create("x")
    await storage.terminate("x", b"{}")
    await storage.purge("x")
    assert (await worker.create("x")).key > instance.key


async def test_ids_are_any_text(worker: Worker) -> None:
    for id in ("", "ü/😀 '\"%_", "a\nb", "A", "a"):
        created = (
            await worker.create(id)
            if id
            else (await worker.storage.create(msgspec.structs.replace(worker.new("y"), id=id))).instance
        )
        assert await worker.read(id) == created


async def test_get_of_an_unknown_id_is_none(storage: Storage) -> None:
    assert await storage.get("nobody") is None


async def test_statuses_are_of_the_keys_that_exist(worker: Worker, storage: Storage) -> None:
    closed = await worker.close(await worker.own())
    pending = await worker.create()
    assert await storage.statuses([closed.key, pending.key, 10**6]) == {
        closed.key: Status.COMPLETED,
        pending.key: Status.PENDING,
    }
    assert await storage.statuses([]) == {}


class TestTerminate:
    async def test_terminate_ends_an_owned_instance(self, worker: Worker, storage: Storage, clock: ManualClock) -> None:
        owned = await worker.advance(await worker.own("x"), note(), waiting_on=b"[]", wake_at=None, turn=3)
        clock.advance(5)
        await storage.terminate("x", b'{"type":"x"}')
        after = await worker.read("x")
        assert (after.status, after.session, after.wake_at) == (Status.TERMINATED, None, None)
        assert (after.closed_at, after.waiting_on, after.next_seq) == (clock.now(), None, owned.next_seq + 1)
        last = (await storage.history(owned.key))[-1]
        assert (last.seq, last.turn, last.stamp, last.payload) == (1, 4, clock.now(), b'{"type":"x"}')

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


class TestPurge:
    async def test_purge_leaves_nothing(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await storage.post([post("x")])
        await worker.close(await worker.advance(owned, note()))
        await storage.purge("x")
        assert await storage.get("x") is None
        assert await storage.history(owned.key, run=0) == []
        assert await storage.statuses([owned.key]) == {}

    async def test_purge_leaves_no_row(self, worker: Worker, storage: Storage) -> None:
        assert isinstance(storage, SqliteStorage)
        owned = await worker.own("x")
        await storage.post([post("x")])
        await worker.close(await worker.advance(owned, note()))
        await storage.purge("x")
        for table in ("instances", "history", "messages", "deliveries"):
            query = f"SELECT count(*) FROM {table}"
            assert await storage._writer.read(lambda c, q=query: c.execute(q).fetchone()) == (0,)  # type: ignore[misc]

    async def test_purge_of_a_running_instance(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        with pytest.raises(InstanceRunningError, match=r"'x'.*terminate"):
            await storage.purge("x")
        assert await worker.read("x") == owned

    async def test_purge_of_an_unknown_id(self, storage: Storage) -> None:
        with pytest.raises(InstanceNotFoundError):
            await storage.purge("nobody")


class TestList:
    async def test_list_pages_in_the_order_of_keys(self, worker: Worker, storage: Storage) -> None:
        created = [await worker.create() for _ in range(5)]
        first = await storage.list(InstanceFilter(), limit=2)
        second = await storage.list(InstanceFilter(), after=first[-1].key, limit=10)
        assert [*first, *second] == created
        assert await storage.list(InstanceFilter(), after=second[-1].key) == []

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            (InstanceFilter(), ["a-1", "a-2", "b-1", "A-1"]),
            (InstanceFilter(workflow="order"), ["a-1", "b-1", "A-1"]),
            (InstanceFilter(workflow="unknown"), []),
            (InstanceFilter(statuses=frozenset({Status.PENDING})), ["a-2", "b-1", "A-1"]),
            (InstanceFilter(statuses=frozenset({Status.TERMINATED, Status.PAUSED})), ["a-1"]),
            (InstanceFilter(statuses=frozenset()), []),
            (InstanceFilter(id_prefix="a-"), ["a-1", "a-2"]),
            (InstanceFilter(id_prefix="a-1"), ["a-1"]),
            (InstanceFilter(id_prefix="%"), []),
            (InstanceFilter(id_prefix=""), ["a-1", "a-2", "b-1", "A-1"]),
            (InstanceFilter("order", frozenset({Status.PENDING}), "b"), ["b-1"]),
        ],
        ids=str,
    )
    async def test_list_filters(
        self, worker: Worker, storage: Storage, where: InstanceFilter, expected: list[str]
    ) -> None:
        await worker.create("a-1")
        await worker.create("a-2", workflow="other")
        await worker.create("b-1")
        await worker.create("A-1")
        await storage.terminate("a-1", b"{}")
        assert [instance.id for instance in await storage.list(where)] == expected


async def test_create_for_a_session_writes_an_owned_instance(worker: Worker, clock: ManualClock) -> None:
    created = await worker.create(session=worker.session)
    assert (created.session, created.status) == (worker.session, Status.RUNNING)
    assert (created.started_at, created.runtime) == (clock.now(), "here")
    assert await worker.read(created.id) == created
    assert await worker.claim_all() == []
    assert (await worker.close(created)).status is Status.COMPLETED


async def test_create_for_a_dead_session_writes_a_pending_instance(worker: Worker, clock: ManualClock) -> None:
    clock.advance(60)
    created = await worker.create(session=worker.session)
    assert (created.session, created.status, created.started_at) == (None, Status.PENDING, None)


async def test_owned_from_creation_is_claimable_when_its_owner_dies(
    worker: Worker, storage: Storage, clock: ManualClock
) -> None:
    created = await worker.create(session=worker.session)
    clock.advance(60)
    assert await storage.reap_sessions() == 1
    other = await Worker.start(storage, clock)
    (claim,) = await other.claim_all()
    assert claim.instance.key == created.key
    assert claim.instance.started_at == created.started_at
