from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
async def url(request: pytest.FixtureRequest, anyio_backend: str, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server = request.getfixturevalue("postgres")
    async with server.schema() as schema:
        yield f"{server.dsn}&schema={schema}"
