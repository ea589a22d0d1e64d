"""Reading histories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.events import EventKind, Note
from romancy.core.records import NextRun
from romancy.testing.storage_suite.making import RECURRING, note
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.storage_suite.making import Worker


class HistorySuite(Suite):
    """Whatever was written is read as it was, in its order, of the run that was asked for."""

    async def test_history_of_a_new_instance_is_empty(self, worker: Worker, storage: Storage) -> None:
        assert await storage.history((await worker.create()).key) == []

    async def test_history_of_an_unknown_key_is_empty(self, storage: Storage) -> None:
        assert await storage.history(10**6) == []
        assert await storage.history(10**6, run=0) == []

    async def test_history_is_ordered_by_seq(self, worker: Worker, storage: Storage) -> None:
        instance = await worker.own()
        for batch in range(4):
            instance = await worker.advance(instance, *(note(f"{batch}.{n}") for n in range(40)))
        events = await storage.history(instance.key)
        assert [event.seq for event in events] == list(range(160))
        assert events[0].activity_id == "0.0"
        assert events[-1].activity_id == "3.39"

    async def test_history_is_of_the_current_run_unless_one_is_named(self, worker: Worker, storage: Storage) -> None:
        first = await worker.own()
        second = await worker.advance(first, RECURRING, next_run=NextRun("order", "1", b""))
        await worker.advance(second, note("1:b"))
        assert [e.activity_id for e in await storage.history(first.key)] == ["1:b"]
        assert [e.kind for e in await storage.history(first.key, run=0)] == [EventKind.RUN_RECURRED]
        assert [e.activity_id for e in await storage.history(first.key, run=1)] == ["1:b"]
        assert await storage.history(first.key, run=2) == []

    async def test_history_keeps_what_was_written(self, worker: Worker, storage: Storage) -> None:
        large = bytes(range(256)) * 4096
        written = [
            Note(EventKind.SIDE_EFFECT, None, None),
            Note(EventKind.SIDE_EFFECT, "", b""),
            Note(EventKind.SIDE_EFFECT, "t4.1:größe", large),
        ]
        instance = await worker.advance(await worker.own(), *written)
        events = await storage.history(instance.key)
        assert [(e.kind, e.activity_id, e.payload) for e in events] == written

    async def test_histories_of_claimed_instances_are_their_own(self, worker: Worker) -> None:
        for n, instance in enumerate([await worker.own(f"order-{n}") for n in range(3)]):
            await worker.advance(instance, *(note(f"{n}.{m}") for m in range(n)), is_freed=True)
        claims = await worker.claim_all()
        assert {c.instance.id: [e.activity_id for e in c.history] for c in claims} == {
            "order-0": [],
            "order-1": ["1.0"],
            "order-2": ["2.0", "2.1"],
        }

    async def test_claim_brings_the_history_of_the_current_run(self, worker: Worker) -> None:
        first = await worker.own()
        await worker.advance(first, note("1:a"), RECURRING, next_run=NextRun("order", "1", b""), is_freed=True)
        (claim,) = await worker.claim_all()
        assert claim.history == []
        await worker.advance(claim.instance, note("1:b"), is_freed=True)
        (claim,) = await worker.claim_all()
        assert [e.activity_id for e in claim.history] == ["1:b"]
