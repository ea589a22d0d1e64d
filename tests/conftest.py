from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.postgres import Server, server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Give the PostgreSQL server of this session of tests."""
    with server() as given:
        yield given


@pytest.fixture(params=["sqlite", "postgres"])
async def url(request: pytest.FixtureRequest, anyio_backend: str, tmp_path: Path) -> AsyncIterator[str]:
    """Return the URL of a database that several processes use."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    given: Server = request.getfixturevalue("postgres")
    async with given.schema() as schema:
        yield f"{given.dsn}&schema={schema}"
