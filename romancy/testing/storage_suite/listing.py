"""Finding instances, and what they show of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from romancy.core.records import InstanceFilter, Rejected, Shown, Status
from romancy.testing.storage_suite.making import Worker, note, tags_of
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage


class ListingSuite(Suite):
    """Instances are found by what they are, how they stand and what they show, in the order of their keys."""

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

    async def test_list_finds_by_all_of_the_tags(self, worker: Worker, storage: Storage) -> None:
        await worker.create("plain")
        await worker.create("eu", tags={"region": "eu"})
        await worker.create("eu-gold", tags={"region": "eu", "tier": "gold"})
        await worker.create("us-gold", tags={"region": "us", "tier": "gold"})
        for tags, expected in (
            ({"region": "eu"}, ["eu", "eu-gold"]),
            ({"tier": "gold", "region": "eu"}, ["eu-gold"]),
            ({"region": "asia"}, []),
            ({"unknown": "eu"}, []),
        ):
            assert [i.id for i in await storage.list(InstanceFilter(tags=tags))] == expected
        last = (await worker.read("eu")).key
        assert [i.id for i in await storage.list(InstanceFilter(tags={"region": "eu"}), after=last)] == ["eu-gold"]

    async def test_tags_are_set_changed_and_removed_by_a_turn(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x", tags={"region": "eu", "tier": "gold"})
        after = await worker.advance(owned, shown=Shown(tags={"tier": "silver", "region": None, "new": "1"}))
        assert tags_of(after) == {"tier": "silver", "new": "1"}
        for tags, expected in (({"tier": "silver"}, ["x"]), ({"tier": "gold"}, []), ({"region": "eu"}, [])):
            assert [i.id for i in await storage.list(InstanceFilter(tags=tags))] == expected

    async def test_custom_status_is_shown_and_found(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("x")
        await worker.own("y")
        shown = await worker.advance(owned, note(), shown=Shown(custom_status=b'"packing"'))
        assert shown.custom_status == b'"packing"'
        assert (await worker.advance(shown, note("2:b"))).custom_status == b'"packing"'
        assert [i.id for i in await storage.list(InstanceFilter(custom_status=b'"packing"'))] == ["x"]
        assert await storage.list(InstanceFilter(custom_status=b'"gone"')) == []

    async def test_rejected_entry_shows_nothing(self, worker: Worker) -> None:
        owned = await worker.own("x", tags={"region": "eu"})
        shown = Shown(custom_status=b"1", tags={"region": "us"})
        (answer,) = await worker.commit(worker.entry(owned, note(), seq=5, shown=shown))
        assert isinstance(answer, Rejected)
        assert await worker.read("x") == owned
