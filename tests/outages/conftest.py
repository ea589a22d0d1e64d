from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.postgres import Server

from .proxy import Proxy, proxy_of


@pytest.fixture
async def schema(anyio_backend: str, postgres: Server) -> AsyncIterator[str]:
    async with postgres.schema() as name:
        yield name


@pytest.fixture
async def proxy(anyio_backend: str, postgres: Server) -> AsyncIterator[Proxy]:
    async with proxy_of(postgres.dsn) as made:
        yield made


@pytest.fixture
def url(proxy: Proxy, schema: str) -> str:
    """Return the URL of a fresh schema, by way of the proxy."""
    return f"{proxy.dsn}&schema={schema}"


@pytest.fixture
def direct_url(postgres: Server, schema: str) -> str:
    """Return the URL of the same schema, past the proxy."""
    return f"{postgres.dsn}&schema={schema}"
