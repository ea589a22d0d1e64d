"""What idle Apps ask of their database."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import pytest

from romancy import App
from tests.postgres import Server

pytestmark = pytest.mark.anyio

APPS = 11
SETTLED = 5.0
"""Seconds after which each knows whether it has the duties that one has for all."""
WATCHED = 7.0


async def test_eleven_idle_apps_ask_a_few_queries_a_second(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    for name in ("execute", "fetch", "fetchval", "fetchrow"):
        inner = getattr(asyncpg.Connection, name)

        async def counted(self: Any, query: str, *args: Any, inner: Any = inner, **kwargs: Any) -> Any:
            asked[query] += 1
            return await inner(self, query, *args, **kwargs)

        monkeypatch.setattr(asyncpg.Connection, name, counted)
    async with postgres.schema() as schema, AsyncExitStack() as stack:
        for _ in range(APPS):
            await stack.enter_async_context(App(f"{postgres.dsn}&schema={schema}"))
        await asyncio.sleep(SETTLED)
        asked.clear()
        await asyncio.sleep(WATCHED)
        rate = asked.total() / WATCHED
    assert 0 < rate < 10, asked
