"""Hearing of what other processes write."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from romancy.core.clock import ManualClock
from romancy.errors import StorageError
from romancy.storage.protocol import Storage
from romancy.storage.sqlite import SqliteStorage

from .making import Worker

pytestmark = pytest.mark.anyio

LONG = timedelta(seconds=30)
SHORT = timedelta(seconds=0.05)


async def test_change_by_another_is_noticed_soon(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    await one.storage.wait_for_change(timedelta(0))
    waiting = asyncio.ensure_future(one.storage.wait_for_change(LONG))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await other.create()
    assert await asyncio.wait_for(waiting, 5)


async def test_change_between_two_calls_is_noticed(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    await one.storage.wait_for_change(timedelta(0))
    await other.create()
    assert await one.storage.wait_for_change(LONG)
    assert not await one.storage.wait_for_change(timedelta(0))


async def test_change_since_opening_is_noticed(storages: tuple[Storage, Storage], clock: ManualClock) -> None:
    one, other = storages
    await Worker.start(other, clock)
    assert await one.wait_for_change(LONG)


async def test_own_writes_are_no_change(worker: Worker, storage: Storage) -> None:
    waiting = asyncio.ensure_future(storage.wait_for_change(SHORT))
    for _ in range(5):
        await worker.create()
        await asyncio.sleep(0.005)
    assert not await waiting


async def test_waiting_ends_at_its_time_out(storage: Storage) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert not await storage.wait_for_change(SHORT)
    assert SHORT.total_seconds() <= loop.time() - began < 5


async def test_waiting_can_be_cancelled(worker: Worker, storage: Storage) -> None:
    waiting = asyncio.ensure_future(storage.wait_for_change(LONG))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await worker.create()


async def test_waiting_does_not_keep_writes_waiting(worker: Worker, storage: Storage) -> None:
    waiting = asyncio.ensure_future(storage.wait_for_change(LONG))
    await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.wait_for(worker.create(), 5)
    waiting.cancel()


async def test_close_ends_all_threads_and_use_is_refused(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    storage = SqliteStorage(tmp_path / "a.db")
    await storage.open()
    await asyncio.gather(*(storage.get(str(n)) for n in range(10)))
    await storage.close()
    await storage.close()
    assert set(threading.enumerate()) == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.db"]
    with pytest.raises(StorageError, match=r"a\.db"):
        await storage.get("x")
    with pytest.raises(StorageError, match=r"a\.db"):
        await storage.wait_for_change(SHORT)
