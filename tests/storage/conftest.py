from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from romancy.core.clock import ManualClock
from romancy.storage.sqlite import SqliteStorage
from romancy.testing.storage_suite.making import Worker


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["file", "memory"])
async def storage(
    request: pytest.FixtureRequest, anyio_backend: str, clock: ManualClock, tmp_path: Path
) -> AsyncIterator[SqliteStorage]:
    storage = SqliteStorage("sqlite://" if request.param == "memory" else tmp_path / "test.db", clock=clock)
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
async def worker(storage: SqliteStorage, clock: ManualClock) -> Worker:
    return await Worker.start(storage, clock)
