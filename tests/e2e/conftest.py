from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest

from romancy import App
from romancy.core.clock import Clock
from romancy.core.retry import RetryPolicy
from romancy.storage.protocol import Storage

from .faults import OffsetClock


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
        return App(url, **{"hot_limit": hot_limit, "grace": timedelta(seconds=5)} | settings)

    return make


@pytest.fixture
def clock() -> OffsetClock:
    return OffsetClock()


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Return the URL of a file; the tests lose no power, so commits need not wait for the disk."""
    return f"sqlite:///{tmp_path / 'test.db'}?synchronous=NORMAL"
