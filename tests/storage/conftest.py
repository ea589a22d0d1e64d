from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from romancy.core.clock import ManualClock
from romancy.storage.protocol import Storage
from romancy.storage.sqlite import SqliteStorage

from .making import Worker

Open = Callable[[], Awaitable[Storage]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def open_storage(
    anyio_backend: str, clock: ManualClock, tmp_path: Path
) -> AsyncIterator[Callable[[str], Awaitable[Storage]]]:
    """Open a storage of the kind that is named; all that are shared are one database, as if in several processes."""
    async with AsyncExitStack() as stack:

        async def open_one(kind: str) -> Storage:
            storage = SqliteStorage("sqlite://" if kind == "memory" else tmp_path / "test.db", clock=clock)
            await storage.open()
            stack.push_async_callback(storage.close)
            return storage

        yield open_one


@pytest.fixture(params=["file", "memory"])
async def storage(request: pytest.FixtureRequest, open_storage: Callable[[str], Awaitable[Storage]]) -> Storage:
    return await open_storage(request.param)


@pytest.fixture(params=["file"])
async def storages(
    request: pytest.FixtureRequest, open_storage: Callable[[str], Awaitable[Storage]]
) -> tuple[Storage, Storage]:
    """Two storages on one database."""
    return await open_storage(request.param), await open_storage(request.param)


@pytest.fixture
async def worker(storage: Storage, clock: ManualClock) -> Worker:
    return await Worker.start(storage, clock)


@pytest.fixture
async def workers(storages: tuple[Storage, Storage], clock: ManualClock) -> tuple[Worker, Worker]:
    """Two workers, each with its own storage on the same database."""
    one, other = storages
    return await Worker.start(one, clock), await Worker.start(other, clock)
