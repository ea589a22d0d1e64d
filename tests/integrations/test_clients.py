"""Clients that go away, stop in the middle, or only connect: they cost nothing but their own connection."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from aiohttp import web
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from romancy import App
from romancy.integrations import aiohttp, fastapi, starlette

from .service import (
    Approval,
    Order,
    approvals,
    client_of,
    fulfil,
    make_app,
    serving,
    serving_aiohttp,
    serving_asgi,
)
from .test_routes import count, start

pytestmark = pytest.mark.anyio


def tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if not task.done()}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(address)
    assert parts.hostname is not None
    return await asyncio.open_connection(parts.hostname, parts.port)


async def parked(app: App, id: str) -> None:
    while not (await (await app.get(id)).info()).waiting_on:
        await asyncio.sleep(0.005)


async def test_client_that_leaves_stops_waiting_and_the_workflow_goes_on(client: httpx.AsyncClient, app: App) -> None:
    await start(client)
    await parked(app, "one")
    before = tasks()
    waiters = app.client.waiters._waiters
    with pytest.raises(httpx.ReadTimeout):
        await client.get("/flow/instances/one/result", params={"timeout": 60}, timeout=0.1)
    await until(lambda: not waiters)
    await until(lambda: tasks() <= before)
    await app.send(approvals, Approval(granted=True), to="one")
    assert (await (await app.get("one")).result(timeout=10))["granted"] is True


async def test_client_that_leaves_in_the_middle_of_a_body_stores_nothing(
    framework: str, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(framework, app) as address:
        before = tasks()
        for head in ("POST /flow/workflows/http_order?id=one", "POST /events"):
            reader, writer = await connect(address)
            writer.write(f"{head} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode())
            writer.write(b'Content-Length: 500\r\n\r\n{"order": {"id": "7"')
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            del reader
        await until(lambda: tasks() <= before)
        assert await count(app) == 0
        async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
            await start(client)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let the process open as many files as it may: both ends of every connection are its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_idle_connections_and_those_that_stop_reading_hold_up_nobody(framework: str, app: App) -> None:
    async with serving(framework, app) as address:
        idle = [await connect(address) for _ in range(1_000)]
        deaf = [await connect(address) for _ in range(20)]
        for _, writer in deaf:
            request = "GET /flow/instances?limit=1000 HTTP/1.1\r\nHost: x\r\n\r\n"
            writer.write(request.encode() * 50)
        slow = [await connect(address) for _ in range(20)]
        for _, writer in slow:
            writer.write(b"POST /flow/workflows/http_order HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n")
            writer.write(b"Content-Type: application/json\r\n\r\n{")
        async with httpx.AsyncClient(base_url=address, timeout=10, trust_env=False) as client:
            await start(client, "one")
            sent = await client.post("/flow/instances/one/messages/http.approvals", json={"granted": True})
            assert sent.status_code == 204
            done = await client.get("/flow/instances/one/result", params={"timeout": 5})
            assert done.json()["status"] == "completed"
        assert await count(app) == 1
        for _, writer in (*idle, *deaf, *slow):
            writer.transport.abort()


@pytest.mark.parametrize("form", ["await", "run"])
async def test_handler_that_awaits_a_workflow(framework: str, app: App, form: str) -> None:
    """An author's own handler, with a client that does not wait for the reply."""

    async def place(id: str) -> dict[str, Any]:
        call = fulfil(Order(id, 5))
        return await call if form == "await" else await app.run(call, id=id)

    if framework == "aiohttp":

        async def handle(request: web.Request) -> web.Response:
            return web.json_response(await place(request.match_info["id"]))

        application = web.Application()
        aiohttp.setup(application, app, authorize="open", prefix="/flow")
        application.router.add_post("/orders/{id}", handle)
        served = serving_aiohttp(application, handler_cancellation=True)
    else:

        async def serve(request: Request) -> Response:
            return JSONResponse(await place(request.path_params["id"]))

        served = serving_asgi(
            Starlette(routes=[Route("/orders/{id}", serve, methods=["POST"])], lifespan=starlette.lifespan(app))
        )
    async with served as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/orders/one", timeout=0.2)
        (info,) = await app.list()
        await parked(app, info.id)
        waiting = asyncio.create_task(client.post("/orders/two", timeout=20))
        while await count(app) < 2:
            await asyncio.sleep(0.005)
        for each in await app.list():
            await app.send(approvals, Approval(granted=True), to=each.id)
        assert (await waiting).json()["granted"] is True
        assert (await (await app.get(info.id)).result(timeout=10))["granted"] is True


async def test_cancelled_wait_leaves_the_workflow_running_and_no_task_behind(app: App) -> None:
    async with app:
        before = tasks()
        for wait in (app.run(fulfil(Order("1", 1)), id="run"), _awaited("2")):
            request = asyncio.create_task(wait)
            while not app.client.waiters._waiters:
                await asyncio.sleep(0.002)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert not app.client.waiters._waiters
        assert await count(app) == 2
        for info in await app.list():
            await parked(app, info.id)
            await app.send(approvals, Approval(granted=True), to=info.id)
            assert (await (await app.get(info.id)).result(timeout=10))["granted"] is True
        await until(lambda: tasks() <= before)


async def _awaited(id: str) -> dict[str, Any]:
    return await fulfil(Order(id, 1))


async def test_two_apps_on_two_databases_in_one_application() -> None:
    one, two = make_app(), make_app()
    application = FastAPI(lifespan=fastapi.lifespan(one, two))
    settings: dict[str, Any] = {"authorize": "open", "workflows": [fulfil], "channels": [approvals]}
    application.include_router(fastapi.router(one, **settings), prefix="/one")
    application.include_router(fastapi.router(two, **settings), prefix="/two")

    @application.post("/which")
    async def which(workflows: fastapi.WorkflowsDep) -> None:
        raise AssertionError(workflows)

    order = {"order": {"id": "7", "amount": 30}}
    async with serving_asgi(application) as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        for name in ("one", "two"):
            reply = await client.post(f"/{name}/workflows/http_order", params={"id": "same"}, json=order)
            assert reply.status_code == 201
        await client.post("/one/instances/same/messages/http.approvals", json={"granted": True})
        done = await client.get("/one/instances/same/result", params={"timeout": 10})
        assert done.json()["status"] == "completed"
        assert (await client.get("/two/instances/same/result")).status_code == 202
        assert (await client.get("/two/instances")).json()["instances"][0]["status"] == "running"
        reply = await client.post("/which")
        assert reply.status_code == 500


async def test_closed_app_is_503(framework: str) -> None:
    app = make_app()
    async with client_of(framework, app) as client:
        await app.__aexit__(None, None, None)
        assert (await client.get("/flow/instances/one")).status_code == 503
        assert (await client.get("/flow/health/ready")).status_code == 503
        assert (await client.get("/flow/health/live")).status_code == 200
        await app.__aenter__()
        assert (await client.get("/flow/health/ready")).status_code == 200
