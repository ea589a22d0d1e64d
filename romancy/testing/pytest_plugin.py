"""Fixtures for pytest, found by it once romancy is installed: ``romancy_env`` and ``romancy_app``.

They work with pytest-asyncio, in both of its modes, and without it with anyio's own plugin.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from romancy.app import App
    from romancy.testing.environment import TestEnvironment


def _async_fixture() -> Callable[[Any], Any]:
    if importlib.util.find_spec("pytest_asyncio") is None:
        return pytest.fixture
    import pytest_asyncio

    return pytest_asyncio.fixture


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of the marker."""
    config.addinivalue_line("markers", "romancy(**settings): how the environment of romancy_env is made")


@_async_fixture()
async def romancy_env(request: pytest.FixtureRequest) -> AsyncIterator[TestEnvironment]:
    """Give a test an open `TestEnvironment`; ``@pytest.mark.romancy(replay_always=True)`` says how it is made."""
    from romancy.testing.environment import TestEnvironment

    marker: pytest.Mark | None = request.node.get_closest_marker("romancy")
    async with TestEnvironment(**({} if marker is None else marker.kwargs)) as env:
        yield env


@_async_fixture()
async def romancy_app(romancy_env: TestEnvironment) -> App:
    """Give a test the App of its environment."""
    return romancy_env.app
