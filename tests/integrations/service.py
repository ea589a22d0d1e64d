"""A service as its author would write it, once for each framework, and what it serves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from fastapi import HTTPException as FastApiError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException as StarletteError
from starlette.requests import Request as StarletteRequest
from starlette.routing import Mount
from starlette.types import ASGIApp

from romancy import App, Channel, activity, workflow
from romancy.core.definitions import Workflow
from romancy.integrations import aiohttp, fastapi, starlette
from romancy.integrations.cloud_events import EventRoute, Publishes, Sends, Starts

FRAMEWORKS = ("starlette", "fastapi", "aiohttp")
BODY_LIMIT = 2_000
TOKEN = "Bearer secret"  # noqa: S105 - it opens nothing


@dataclass
class Order:
    id: str
    amount: int
    notes: list[str] | None = None


@dataclass
class Approval:
    granted: bool


approvals: Channel[Approval] = Channel("http.approvals", Approval)
prices: Channel[int] = Channel("http.prices", int)
charged: list[str] = []


@activity(name="http_charge")
async def charge(order: Order) -> int:
    charged.append(order.id)
    return order.amount


@workflow(name="http_order")
async def fulfil(order: Order, gift: bool = False) -> dict[str, Any]:
    paid = await charge(order)
    approval = await approvals.receive()
    return {"paid": paid, "granted": approval.granted, "gift": gift}


@workflow(name="http_quick")
async def quick(word: str = "quick") -> str:
    return word


@workflow(name="http_fails")
async def fails() -> None:
    raise ValueError("it can't be done")


@workflow(name="http_bug")
async def bug() -> None:
    raise TypeError("a programming error")


@workflow(name="http_watches")
async def watches() -> int:
    async with prices.subscribe() as subscription:
        return await subscription.receive()


WORKFLOWS: list[Workflow[..., Any]] = [fulfil, quick, fails, bug, watches]
EVENTS: list[EventRoute] = [
    Starts("com.example.order.placed", fulfil, subject="order/*", id=lambda event: event.get_subject() or ""),
    Starts("com.example.order.placed", fulfil),
    Starts("com.example.word", quick),
    Sends("com.example.approved", approvals),
    Publishes("com.example.price.*", prices),
]


def make_app(url: str = "sqlite://", **settings: Any) -> App:
    return App(url, workflows=WORKFLOWS, **settings)


async def only_token(request: Any) -> None:
    if request.headers.get("authorization") != TOKEN:
        raise StarletteError(401, "no token")


async def only_token_fastapi(request: StarletteRequest) -> None:
    if request.headers.get("authorization") != TOKEN:
        raise FastApiError(401, "no token")


async def only_token_aiohttp(request: web.Request) -> bool:
    if "authorization" not in request.headers:
        raise web.HTTPUnauthorized
    return request.headers["authorization"] == TOKEN


def asgi(framework: str, app: App, *, is_open: bool) -> ASGIApp:
    """Return an application of Starlette or FastAPI with everything below /flow."""
    settings: dict[str, Any] = {"workflows": WORKFLOWS, "channels": [approvals, prices], "body_limit": BODY_LIMIT}
    if framework == "starlette":
        guard: Any = "open" if is_open else only_token
        return Starlette(
            routes=[
                Mount("/flow", routes=starlette.routes(app, authorize=guard, **settings)),
                starlette.cloud_events("/events", app, EVENTS, authorize=guard, body_limit=BODY_LIMIT),
            ],
            lifespan=starlette.lifespan(app),
        )
    guard = "open" if is_open else only_token_fastapi
    application = FastAPI(lifespan=fastapi.lifespan(app))
    application.include_router(fastapi.router(app, authorize=guard, **settings), prefix="/flow")
    application.include_router(fastapi.cloud_events("/events", app, EVENTS, authorize=guard, body_limit=BODY_LIMIT))
    return application


def aiohttp_application(app: App, *, is_open: bool) -> web.Application:
    application = web.Application()
    guard: Any = "open" if is_open else only_token_aiohttp
    aiohttp.setup(
        application,
        app,
        authorize=guard,
        prefix="/flow",
        workflows=WORKFLOWS,
        channels=[approvals, prices],
        body_limit=BODY_LIMIT,
    )
    aiohttp.cloud_events(application, "/events", app, EVENTS, authorize=guard, body_limit=BODY_LIMIT)
    return application


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@asynccontextmanager
async def serving_asgi(application: ASGIApp) -> AsyncGenerator[str]:
    """Serve an application on a port of its own, in this event loop; give its address."""
    # With its protocol named asyncio switches Nagle's algorithm off; else every reply takes 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(application, log_level="error", lifespan="on", ws="none", timeout_graceful_shutdown=1)
        server = _Server(config)
        task = asyncio.create_task(server.serve([listening]))
        while not server.started and not task.done():
            await asyncio.sleep(0.002)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def serving_aiohttp(application: web.Application, **settings: Any) -> AsyncGenerator[str]:
    """Serve an application of aiohttp likewise."""
    runner = web.AppRunner(application, shutdown_timeout=1, **settings)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def serving(framework: str, app: App, *, is_open: bool = True) -> AbstractAsyncContextManager[str]:
    if framework == "aiohttp":
        return serving_aiohttp(aiohttp_application(app, is_open=is_open))
    return serving_asgi(asgi(framework, app, is_open=is_open))


@asynccontextmanager
async def client_of(framework: str, app: App, *, is_open: bool = True) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an App, and give a client of it."""
    async with (
        serving(framework, app, is_open=is_open) as address,
        httpx.AsyncClient(base_url=address, timeout=20, trust_env=False) as client,
    ):
        yield client
