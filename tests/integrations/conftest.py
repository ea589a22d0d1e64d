from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from romancy import App

from . import service
from .service import FRAMEWORKS, client_of, make_app


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    service.charged.clear()


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def app() -> App:
    return make_app()


@pytest.fixture
async def client(anyio_backend: str, framework: str, app: App) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(framework, app) as made:
        yield made
