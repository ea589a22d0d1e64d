"""Starlette: a lifespan that opens and closes Apps, and routes to start, watch and message workflows."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from romancy.errors import NoAppError
from romancy.integrations.api import DEFAULT_BODY_LIMIT, DEFAULT_LONGEST_WAIT, Api
from romancy.integrations.authorizing import OPEN, ask, guard_of
from romancy.integrations.exchange import Incoming, Reply
from romancy.integrations.operations import operations_of
from romancy.integrations.problems import Problem, incomplete

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.applications import Starlette

    from romancy.app import App
    from romancy.core.definitions import Workflow
    from romancy.integrations.authorizing import Authorize
    from romancy.integrations.cloud_events import EventRoute
    from romancy.workflows.channels import Channel

__all__ = ["OPEN", "app_of", "cloud_events", "lifespan", "routes"]

_APPS = "romancy_apps"


def lifespan(
    *apps: App, around: Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]] | None = None
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """Return a lifespan that opens Apps before the first request and closes them after the last.

    ``Starlette(lifespan=lifespan(workflows))``

    Args:
        apps: What to open, in this order; they are closed in the reverse one.
        around: A lifespan of your own, which runs while the Apps are open; the state that it gives is kept.
    """

    @asynccontextmanager
    async def opened(application: Starlette) -> AsyncGenerator[Mapping[str, Any]]:
        async with AsyncExitStack() as stack:
            for app in apps:
                await stack.enter_async_context(app)
            state: Mapping[str, Any] | None = None
            if around is not None:
                state = await stack.enter_async_context(around(application))
            yield {**(state or {}), _APPS: apps}

    return opened


def app_of(connection: HTTPConnection) -> App:
    """Return the App that the application's `lifespan` has opened.

    Raises:
        NoAppError: It has opened none, or several: refer to the one that is meant.
    """
    apps: tuple[App, ...] = getattr(connection.state, _APPS, ())
    if len(apps) != 1:
        msg = (
            f"the application's lifespan has opened {len(apps)} Apps: use lifespan(app), or name the App that is meant"
        )
        raise NoAppError(msg)
    return apps[0]


def routes(
    app: App,
    *,
    authorize: Authorize,
    workflows: Sequence[Workflow[..., Any]] | None = None,
    channels: Sequence[Channel[Any]] = (),
    body_limit: int = DEFAULT_BODY_LIMIT,
    longest_wait: float = DEFAULT_LONGEST_WAIT,
) -> list[Route]:
    """Return routes to start, list, watch, message and cancel instances, and to ask for the service's health.

    ``Mount("/durable", routes=routes(workflows, authorize=only_staff))``

    Args:
        app: Whose instances; see `lifespan`.
        authorize: Who may use them: a callable, async or not, that is given the request and raises an
            ``HTTPException`` or returns False for those who may not; or ``"open"``: everybody. The health routes are
            open in any case.
        workflows: Those that can be started; None: every one that has been imported by now.
        channels: Those that can be sent on.
        body_limit: The most bytes of a request's body.
        longest_wait: How many seconds one request for a result may wait: less than proxies in between allow.

    Raises:
        TypeError: ``authorize`` is neither.
    """
    api = Api(app, workflows=workflows, channels=channels, body_limit=body_limit, longest_wait=longest_wait)
    guard = guard_of(authorize)
    return [
        Route(
            with_slashes(operation.path),
            endpoint(partial(api.serve, operation), None if operation.is_open else guard),
            methods=[operation.method],
            name=f"romancy_{operation.name}",
        )
        for operation in operations_of(api)
    ]


def cloud_events(
    path: str, app: App, on: Sequence[EventRoute], *, authorize: Authorize, body_limit: int = DEFAULT_BODY_LIMIT
) -> Route:
    """Return a route that takes CloudEvents; see `romancy.integrations.cloud_events`.

    Args:
        path: Where.
        app: Whose workflows are started, and whose channels are sent on.
        on: What becomes of which events; the first that fits.
        authorize: As of `routes`.
        body_limit: The most bytes of a request's body.

    Raises:
        TypeError: ``authorize`` is neither a callable nor ``"open"``.
    """
    from romancy.integrations.cloud_events import Receiver

    receiver = Receiver(app, on, body_limit=body_limit)
    return Route(path, endpoint(receiver.serve, guard_of(authorize)), methods=["POST"], name="romancy_cloud_events")


def endpoint(
    serve: Callable[[Incoming], Awaitable[Reply]], guard: Callable[..., Any] | None
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that serves requests as the framework has them."""

    async def endpoint(request: Request) -> Response:
        try:
            await ask(guard, request)
            return response_of(await serve(incoming_of(request)))
        except Problem as problem:
            return response_of(problem.reply())

    return endpoint


def with_slashes(path: str) -> str:
    """Return an operation's path as Starlette has it: ids may hold slashes."""
    return path.replace("{id}", "{id:path}")


def incoming_of(request: Request) -> Incoming:
    """Return a request as a value."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    async def chunks() -> AsyncGenerator[bytes]:
        try:
            async for chunk in request.stream():
                yield chunk
        except ClientDisconnect as exc:
            raise incomplete() from exc

    return Incoming(request.path_params, request.query_params.multi_items(), request.headers, chunks, gone)


def response_of(reply: Reply) -> Response:
    """Return a reply as the framework has it."""
    media_type = reply.media_type if reply.body else None
    return Response(reply.body, reply.status, dict(reply.headers), media_type)
