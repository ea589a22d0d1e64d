from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from romancy import App
from romancy.storage.postgres import PostgresStorage
from romancy.storage.protocol import Storage
from romancy.storage.urls import storage_at
from romancy.worker import committer, pacing
from tests.postgres import Server

from .faults import OffsetClock

_TEST_LIMIT = 25
"""Seconds; below pytest's own limit, which can't tell where a coroutine waits and hangs in the fixtures."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Bound the time of every test, so that one that waits in vain fails where it waits."""
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(item.obj):
        return
    test = item.obj

    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(_TEST_LIMIT):
            await test(*args, **kwargs)

    item.obj = bounded


BACK_ENDS = ("sqlite", "postgres")
"""What behaviour is tested on."""


class BackEnd:
    """Make databases of one kind; what they leave is gone when the test is over."""

    def __init__(self, name: str, folder: Path, server: Server | None) -> None:
        self.name = name
        self._folder = folder
        self._server = server
        self._schemas: list[str] = []
        self.every = 1 if server is None else 3
        """Which storage calls are let fail in a sweep: every universe takes some tenths of a second on a server."""

    def url(self) -> str:
        """Return the URL of a fresh database, which only one storage at a time needs to reach."""
        return "sqlite://" if self._server is None else self.lasting_url()

    def lasting_url(self) -> str:
        """Return the URL of a fresh database for any number of storages; no power is lost, so nothing is synced."""
        if self._server is None:
            return f"sqlite:///{self._folder / 'test.db'}?synchronous=NORMAL"
        self._schemas.append(self._server.new_schema())
        # An author's own tables are there too.
        return f"{self._server.dsn}&schema={self._schemas[-1]}&search_path={self._schemas[-1]}"

    def storage(self, clock: OffsetClock) -> Storage:
        """Make a storage on a fresh database, for several processes of a test that use it through proxies."""
        if self._server is None:
            return storage_at(self.url(), clock)
        # They have one connection to be notified on, and nobody hears of what is told by that. Every connection that is
        # opened costs as much as all that a short test does on it.
        return PostgresStorage(self.lasting_url(), clock=clock, listen=False, pool_size=3)

    async def clear(self) -> None:
        """Drop what was made on the server."""
        if self._server is not None:
            for schema in self._schemas:
                await self._server.execute(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE')


class MakeApp(Protocol):
    """Describe an App with the hot limit under test, on a fresh database; settings as of `App`."""

    def __call__(self, url: str | Storage = "", **settings: Any) -> App: ...


@pytest.fixture(params=[10_000, 0], ids=["hot", "cold"])
def hot_limit(request: pytest.FixtureRequest) -> int:
    """Keep waiting runs in memory, or none of them."""
    limit: int = request.param
    return limit


@pytest.fixture(params=BACK_ENDS)
async def back_end(request: pytest.FixtureRequest, anyio_backend: str, tmp_path: Path) -> AsyncIterator[BackEnd]:
    server: Server | None = request.getfixturevalue("postgres") if request.param == "postgres" else None
    made = BackEnd(request.param, tmp_path, server)
    yield made
    await made.clear()


@pytest.fixture
def make_app(hot_limit: int, back_end: BackEnd) -> MakeApp:
    def make(url: str | Storage = "", **settings: Any) -> App:
        chosen: dict[str, Any] = {"hot_limit": hot_limit, "grace": timedelta(seconds=5)}
        return App(url or back_end.url(), **chosen | settings)

    return make


@pytest.fixture
def clock() -> OffsetClock:
    return OffsetClock()


@pytest.fixture
async def shared(anyio_backend: str, back_end: BackEnd, clock: OffsetClock) -> AsyncIterator[Storage]:
    """A database that several processes of a test use through proxies."""
    storage = back_end.storage(clock)
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
def database(back_end: BackEnd) -> str:
    """Return the URL of a database that one App after another opens, or several do at once."""
    return back_end.lasting_url()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon after a failure: that it is tried again is what counts."""
    monkeypatch.setattr(pacing, "PAUSE_AFTER_FAILURE", 0.001)
    monkeypatch.setattr(committer, "_FIRST_PAUSE", 0.001)
