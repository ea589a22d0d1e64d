"""What the tests of every aggregate are given."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeAlias

import pytest

from romancy.testing.storage_suite.making import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

OpenStorage: TypeAlias = "Callable[[], Awaitable[Storage]]"
"""Opens one more storage on the test's database, as another process would."""


class Suite:
    """Be the base of each aggregate's tests, with the fixtures that they share.

    The fixture ``database`` is the joining back end's: it gives a fresh `Database`.
    """

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Run on asyncio."""
        return "asyncio"

    @pytest.fixture
    def clock(self, database: Database) -> AdjustableClock:
        """Give the clock that the test moves."""
        return database.clock

    @pytest.fixture
    async def open_storage(self, anyio_backend: str, database: Database) -> AsyncIterator[OpenStorage]:
        """Open any number of storages on the test's database, as if in as many processes."""
        async with AsyncExitStack() as stack:

            async def open_one() -> Storage:
                storage = database.storage()
                await storage.open()
                stack.push_async_callback(storage.close)
                return storage

            yield open_one

    @pytest.fixture
    async def storage(self, open_storage: OpenStorage) -> Storage:
        """Give the one storage of a test that needs no other."""
        return await open_storage()

    @pytest.fixture
    async def worker(self, storage: Storage, clock: AdjustableClock) -> Worker:
        """Start a worker on the one storage."""
        return await Worker.start(storage, clock)

    @pytest.fixture
    async def workers(self, open_storage: OpenStorage, clock: AdjustableClock) -> tuple[Worker, Worker]:
        """Start two workers, each with a storage of its own on the same database."""
        return await Worker.start(await open_storage(), clock), await Worker.start(await open_storage(), clock)

    @pytest.fixture
    async def crowd(self, open_storage: OpenStorage, clock: AdjustableClock) -> list[Worker]:
        """Start ten workers, each with a storage of its own on the same database."""
        return [await Worker.start(await open_storage(), clock) for _ in range(10)]
