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
from romancy.storage.protocol import Storage
from romancy.storage.sqlite import SqliteStorage
from romancy.worker import committer, deliveries, worker

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


class MakeApp(Protocol):
    """Describe an App with the hot limit under test; settings as of `App`."""

    def __call__(self, url: str | Storage = "sqlite://", **settings: Any) -> App: ...


@pytest.fixture(params=[10_000, 0], ids=["hot", "cold"])
def hot_limit(request: pytest.FixtureRequest) -> int:
    """Keep waiting runs in memory, or none of them."""
    limit: int = request.param
    return limit


@pytest.fixture
def make_app(hot_limit: int) -> MakeApp:
    def make(url: str | Storage = "sqlite://", **settings: Any) -> App:
        chosen: dict[str, Any] = {"hot_limit": hot_limit, "grace": timedelta(seconds=5)}
        return App(url, **chosen | settings)

    return make


@pytest.fixture
def clock() -> OffsetClock:
    return OffsetClock()


@pytest.fixture
async def shared(anyio_backend: str, clock: OffsetClock) -> AsyncIterator[SqliteStorage]:
    """A database that several processes of a test use through proxies."""
    storage = SqliteStorage("sqlite://", clock=clock)
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Return the URL of a file; the tests lose no power, so commits need not wait for the disk."""
    return f"sqlite:///{tmp_path / 'test.db'}?synchronous=NORMAL"


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon after a failure: that it is tried again is what counts."""
    monkeypatch.setattr(worker, "_PAUSE_AFTER_FAILURE", 0.001)
    monkeypatch.setattr(deliveries, "_PAUSE_AFTER_FAILURE", 0.001)
    monkeypatch.setattr(committer, "_FIRST_PAUSE", 0.001)
