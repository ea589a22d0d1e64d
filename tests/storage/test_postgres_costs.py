"""What PostgreSQL has to read for work that concerns a few instances of many: the plans, and the pages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from romancy.core.records import Claims, InstanceFilter
from romancy.storage.postgres import PostgresStorage
from romancy.storage.postgres_tx import Plan, PostgresTx
from romancy.storage.sql_storage import SqlStorage
from romancy.testing.clock import ShiftedClock
from romancy.testing.storage_suite.making import Worker, post
from tests.postgres import Server

pytestmark = pytest.mark.anyio

FEW, MANY = 100, 100_000
CROWD = """
INSERT INTO instances (id, execution_id, workflow, version, input, created_at, status, wake_at, closed_at,
  run, next_seq, drained_seq, inbox_seq, inbox_seen, recoveries)
SELECT '{name}' || n, n, 'order', '1', '[]', now(), {status}, {wake_at}, {closed_at}, 0, 1, 1, 0, 0, 0
FROM generate_series(1, {count}) n
"""


class ExplainingTx(PostgresTx):
    """Explains and executes every statement, and adds up the pages that they read."""

    pages = 0
    plans: ClassVar[list[dict[str, Any]]] = []

    async def _fetch(self, text: str, *parameters: object) -> list[Any]:
        await self._explain(text, parameters)
        return await super()._fetch(text, *parameters)

    async def _explain(self, text: str, parameters: tuple[object, ...]) -> None:
        if text.startswith(("INSERT", "UPDATE", "DELETE")):
            return  # executed once only; what they find, they find by the same columns
        ((found,),) = await self._connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *parameters)
        (plan,) = json.loads(found)
        ExplainingTx.plans.append(plan["Plan"])
        ExplainingTx.pages += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


class ExplainingStorage(PostgresStorage):
    def _tx(self, connection: Any, plan: Plan) -> PostgresTx:
        return ExplainingTx(connection, *self.present(), plan)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.fixture
async def storage(anyio_backend: str, postgres: Server) -> AsyncIterator[PostgresStorage]:
    async with postgres.schema() as schema:
        storage = ExplainingStorage(postgres.dsn, schema=schema, clock=ShiftedClock(), listen=False)
        await storage.open()
        yield storage
        await storage.close()


async def fill(storage: SqlStorage[Any], count: int) -> None:
    """Add as many that sleep and as many that have ended."""
    crowds = (
        {"name": f"sleeping-{count}-", "status": 0, "wake_at": "now() + interval '1 year'", "closed_at": "NULL"},
        {"name": f"ended-{count}-", "status": 10, "wake_at": "NULL", "closed_at": "now()"},
    )
    for crowd in crowds:
        sql = CROWD.format(count=count, **crowd)
        await storage._write(lambda tx, sql=sql: tx.run(sql))  # type: ignore[misc]


async def work(worker: Worker, storage: PostgresStorage, name: str) -> int:
    """Do what concerns one instance, and return how many pages were read for it."""
    ExplainingTx.pages = 0
    ExplainingTx.plans = []
    created = await worker.create(name)
    (claim,) = (await worker.claim()).claims
    assert claim.instance.key == created.key
    await storage.post([post(name)])
    assert len(await storage.mail(worker.session)) == 1
    assert await storage.get(name) is not None
    found = await storage.list(InstanceFilter(id_prefix=name), after=created.key - 1)
    assert [instance.id for instance in found] == [name]
    assert len(await storage.list(InstanceFilter(workflow="order"), limit=20)) == 20
    await worker.close(claim.instance)
    assert (await worker.claim()).claims == []
    assert await storage.mail(worker.session) == []
    await storage.reap_sessions()
    return ExplainingTx.pages


async def test_work_costs_the_same_among_many(storage: PostgresStorage) -> None:
    worker = await Worker.start(storage, ShiftedClock())
    assert await worker.claim() == Claims([], None)
    await fill(storage, FEW)
    few = await work(worker, storage, "one")
    await fill(storage, MANY)
    many = await work(worker, storage, "other")
    assert many < 3 * few  # the trees are a level or two higher
    scans = [
        node["Relation Name"]
        for plan in ExplainingTx.plans
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and node.get("Relation Name") not in {"sessions", "channels"}
    ]
    assert scans == []
    assert any(node.get("Index Name") == "instances_due" for plan in ExplainingTx.plans for node in nodes(plan))
