"""What SQLite has to do for work that does not concern who asks, counted in its own instructions."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from romancy.core.records import Claims
from romancy.storage.sqlite import SqliteStorage
from romancy.testing.storage_suite.making import Worker

pytestmark = pytest.mark.anyio

CROWDS: dict[str, str] = {
    "asleep": f"wake_at = {2**60}",
    "waiting for mail": "status = 1, wake_at = NULL",
    "of another definition": "workflow = 'another', wake_at = 0",
    "of many priorities, asleep": f"priority = key % 3, wake_at = {2**60}",
    "blocked by this build": "status = 3, build = 'build'",
    "blocked, of another definition": "status = 3, workflow = 'another'",
    "paused": "status = 2",
    "owned by another": "status = 1, session = 1000",
    "ended": "status = 10, wake_at = NULL",
}


@pytest.mark.parametrize("crowd", CROWDS)
async def test_idle_worker_costs_the_same_among_instances_that_do_not_concern_it(
    worker: Worker, storage: SqliteStorage, crowd: str
) -> None:
    threads = {storage._writer, storage._reader}

    async def work() -> int:
        """Do what an idle worker does; return how many instructions of SQLite's machine that took."""
        steps = itertools.count()
        for thread in threads:
            await thread.read(lambda c: c.set_progress_handler(lambda: next(steps) and None, 1))
        assert await worker.claim() == Claims([], None) or "asleep" in crowd
        await storage.mail(worker.session)
        await storage.reap_sessions()
        await storage.block_unserved(due_before=0)
        await storage.commit(worker.session, [])
        for thread in threads:
            await thread.read(lambda c: c.set_progress_handler(None, 1))
        return next(steps)

    async def make(count: int) -> None:
        await asyncio.gather(*(worker.create(wake_at=2**59) for _ in range(count)))
        await storage._writer.write(lambda c: c.execute(f"UPDATE instances SET {CROWDS[crowd]}").close())

    await make(10)
    few = await work()
    await make(1000)
    assert await work() < 1.2 * few
