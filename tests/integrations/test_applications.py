"""How routers and lifespans become part of an application."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from aiohttp import web
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from romancy import App, NoAppError, workflow
from romancy.integrations import aiohttp, fastapi, starlette

from .service import WORKFLOWS, approvals, asgi, make_app, quick, serving_aiohttp, serving_asgi

pytestmark = pytest.mark.anyio
bearer = HTTPBearer()


class Node(BaseModel):
    name: str
    children: list[Node] = []


@workflow(name="http_tree")
async def tree(root: Node, *more: Node, depth: int = 1) -> int:
    return len(root.children) + len(more) + depth


def test_nothing_is_mounted_without_a_word_about_who_may_use_it() -> None:
    app = make_app()
    mounts: list[Callable[[Any], object]] = [
        lambda authorize: starlette.routes(app, authorize=authorize),
        lambda authorize: starlette.cloud_events("/events", app, [], authorize=authorize),
        lambda authorize: fastapi.router(app, authorize=authorize),
        lambda authorize: fastapi.cloud_events("/events", app, [], authorize=authorize),
        lambda authorize: aiohttp.setup(web.Application(), app, authorize=authorize),
        lambda authorize: aiohttp.cloud_events(web.Application(), "/events", app, [], authorize=authorize),
    ]
    for mount in mounts:
        for said in (None, "", "everybody", True):
            with pytest.raises(TypeError, match="say who may use the routes"):
                mount(said)
    with pytest.raises(TypeError, match="authorize"):
        fastapi.router(app)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] # it is refused


async def test_lifespan_runs_around_the_application_s_own() -> None:
    app = make_app()
    seen: list[Any] = []

    @asynccontextmanager
    async def own(_: Any) -> AsyncGenerator[dict[str, Any]]:
        seen.append(await app.run(quick("begin")))
        yield {"word": "state"}
        seen.append(await app.run(quick("end")))

    async def show(request: Request) -> Response:
        return JSONResponse([request.state.word, starlette.app_of(request) is app])

    application = Starlette(routes=[Route("/", show)], lifespan=starlette.lifespan(app, around=own))
    async with serving_asgi(application) as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        assert (await client.get("/")).json() == ["state", True]
        assert seen == ["begin"]
    assert seen == ["begin", "end"]
    with pytest.raises(NoAppError):
        _ = app.client


async def test_dependency_gives_the_app_of_the_lifespan() -> None:
    app = make_app()
    application = FastAPI(lifespan=fastapi.lifespan(app))

    @application.post("/words/{word}")
    async def say(word: str, workflows: fastapi.WorkflowsDep) -> str:
        return await workflows.run(quick(word), id=word)

    async with serving_asgi(application) as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        assert (await client.post("/words/hello")).json() == "hello"
        assert (await client.post("/words/hello")).json() == "hello"
    assert "workflows" not in str(application.openapi()["paths"]["/words/{word}"])


async def test_dependency_without_a_lifespan_says_what_to_do() -> None:
    application = FastAPI()

    @application.post("/")
    async def say(workflows: fastapi.WorkflowsDep) -> None:
        raise AssertionError(workflows)

    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(NoAppError, match="has opened 0 Apps: use lifespan"):
            await client.post("/")


async def test_aiohttp_application_keeps_its_app() -> None:
    app = make_app()
    application = web.Application()
    aiohttp.setup(application, app, authorize="open", prefix="/flow")

    async def say(request: web.Request) -> web.Response:
        return web.json_response(await request.app[aiohttp.APP].run(quick("hello")))

    application.router.add_get("/", say)
    async with (
        serving_aiohttp(application) as address,
        httpx.AsyncClient(base_url=address, trust_env=False) as client,
    ):
        assert (await client.get("/")).json() == "hello"
        assert (await client.get("/flow/health/ready")).status_code == 200


async def test_fastapi_dependency_with_dependencies_of_its_own_guards_and_is_described() -> None:
    async def staff(credentials: Annotated[Any, Depends(bearer)]) -> bool:
        if credentials.credentials == "nobody":
            raise HTTPException(402, "pay first")
        return bool(credentials.credentials == "staff")

    app = make_app()
    application = FastAPI(lifespan=fastapi.lifespan(app))
    application.include_router(fastapi.router(app, authorize=staff, workflows=WORKFLOWS), prefix="/flow")
    paths = application.openapi()["paths"]
    assert paths["/flow/instances"]["get"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in paths["/flow/health/live"]["get"]
    async with serving_asgi(application) as address, httpx.AsyncClient(base_url=address, trust_env=False) as client:
        for word, status in (("nobody", 402), ("other", 403), ("staff", 200)):
            reply = await client.get("/flow/instances", headers={"authorization": f"Bearer {word}"})
            assert reply.status_code == status
        assert (await client.get("/flow/instances")).status_code in {401, 403}


def test_workflows_and_channels_show_in_the_openapi_document() -> None:
    app = App("sqlite://")
    application = FastAPI()
    application.include_router(
        fastapi.router(app, authorize="open", workflows=[*WORKFLOWS, tree], channels=[approvals]), prefix="/flow"
    )
    paths = application.openapi()["paths"]
    assert set(paths) == {
        "/flow/workflows",
        *(f"/flow/workflows/{each.name}" for each in (*WORKFLOWS, tree)),
        "/flow/instances",
        "/flow/instances/{id}",
        "/flow/instances/{id}/result",
        "/flow/instances/{id}/history",
        "/flow/instances/{id}/messages/http.approvals",
        "/flow/instances/{id}/cancel",
        "/flow/health/live",
        "/flow/health/ready",
    }
    body = paths["/flow/workflows/http_order"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["order"]
    assert body["additionalProperties"] is False
    assert body["properties"]["order"]["properties"]["amount"] == {"type": "integer"}
    assert body["properties"]["gift"] == {"type": "boolean", "default": False}
    message = paths["/flow/instances/{id}/messages/http.approvals"]["post"]["requestBody"]["content"]
    assert message["application/json"]["schema"]["properties"] == {"granted": {"type": "boolean"}}
    described = paths["/flow/workflows/http_tree"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    root = described["properties"]["root"]
    assert root["properties"]["name"]["type"] == "string"
    assert root["properties"]["children"]["items"] == {}  # it holds itself: no end without references
    assert "$ref" not in str(paths)
    assert set(paths["/flow/workflows/http_order"]["post"]["responses"]) >= {"201", "404", "409", "413", "422"}


async def test_asgi_application_without_a_server(app: App) -> None:
    """An in-process client, as tests of a service use it."""
    async with app:
        transport = httpx.ASGITransport(asgi("fastapi", app, is_open=True))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            reply = await client.post("/flow/workflows/http_quick", params={"id": "one"}, json={"word": "a"})
            assert reply.status_code == 201
            done = await client.get("/flow/instances/one/result", params={"timeout": 10})
            assert done.json()["result"] == "a"
