"""aiohttp: an App that is opened and closed with the application, and routes to start, watch and message workflows."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from romancy.app import App
from romancy.integrations.api import DEFAULT_BODY_LIMIT, DEFAULT_LONGEST_WAIT, Api
from romancy.integrations.authorizing import OPEN, ask, guard_of
from romancy.integrations.exchange import Incoming, Reply
from romancy.integrations.operations import operations_of
from romancy.integrations.problems import Problem, incomplete

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from romancy.core.definitions import Workflow
    from romancy.integrations.authorizing import Authorize
    from romancy.integrations.cloud_events import EventRoute
    from romancy.workflows.channels import Channel

__all__ = ["APP", "OPEN", "cloud_events", "setup"]

APP = web.AppKey("romancy", App)
"""Where the application keeps the App: ``request.app[APP]``."""
_LOOK = 0.5
"""Seconds between two looks whether a client that waits is still there: aiohttp tells nobody."""


def setup(
    web_app: web.Application,
    app: App,
    *,
    authorize: Authorize,
    prefix: str = "",
    workflows: Sequence[Workflow[..., Any]] | None = None,
    channels: Sequence[Channel[Any]] = (),
    body_limit: int = DEFAULT_BODY_LIMIT,
    longest_wait: float = DEFAULT_LONGEST_WAIT,
) -> None:
    """Open the App with the application, and add routes to start, list, watch, message and cancel instances.

    ``setup(application, workflows, authorize=only_staff, prefix="/durable")``

    Args:
        web_app: The application, before it runs. The first App that is set up is its ``[APP]``.
        app: Opened when the application starts, and closed when it is cleaned up.
        authorize: Who may use the routes: a callable, async or not, that is given the request and raises an
            ``HTTPException`` or returns False for those who may not; or ``"open"``: everybody. The health routes are
            open in any case.
        prefix: What the paths of the routes begin with.
        workflows: Those that can be started; None: every one that has been imported by now.
        channels: Those that can be sent on.
        body_limit: The most bytes of a request's body.
        longest_wait: How many seconds one request for a result may wait: less than proxies in between allow.

    Raises:
        TypeError: ``authorize`` is neither.
    """
    guard = guard_of(authorize)

    async def opened(_: web.Application) -> AsyncGenerator[None]:
        async with app:
            yield

    web_app.cleanup_ctx.append(opened)
    if APP not in web_app:
        web_app[APP] = app
    api = Api(app, workflows=workflows, channels=channels, body_limit=body_limit, longest_wait=longest_wait)
    for operation in operations_of(api):
        handler = _handler(partial(api.serve, operation), None if operation.is_open else guard)
        web_app.router.add_route(operation.method, prefix + operation.path.replace("{id}", "{id:.+}"), handler)


def cloud_events(
    web_app: web.Application,
    path: str,
    app: App,
    on: Sequence[EventRoute],
    *,
    authorize: Authorize,
    body_limit: int = DEFAULT_BODY_LIMIT,
) -> None:
    """Add a route that takes CloudEvents; see `romancy.integrations.cloud_events`.

    Args:
        web_app: The application, before it runs.
        path: Where.
        app: Whose workflows are started, and whose channels are sent on; see `setup`.
        on: What becomes of which events; the first that fits.
        authorize: As of `setup`.
        body_limit: The most bytes of a request's body.

    Raises:
        TypeError: ``authorize`` is neither a callable nor ``"open"``.
    """
    from romancy.integrations.cloud_events import Receiver

    receiver = Receiver(app, on, body_limit=body_limit)
    web_app.router.add_post(path, _handler(receiver.serve, guard_of(authorize)))


def _handler(
    serve: Callable[[Incoming], Awaitable[Reply]], guard: Callable[..., Any] | None
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            await ask(guard, request)
            reply = await serve(_incoming_of(request))
        except Problem as problem:
            reply = problem.reply()
        headers = dict(reply.headers)
        if reply.body:
            headers["Content-Type"] = reply.media_type
        return web.Response(body=reply.body, status=reply.status, headers=headers)

    return handler


def _incoming_of(request: web.Request) -> Incoming:
    async def gone() -> None:
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - see _LOOK
            await asyncio.sleep(_LOOK)

    async def chunks() -> AsyncGenerator[bytes]:
        try:
            async for chunk in request.content.iter_any():
                yield chunk
        except (ConnectionError, web.RequestPayloadError) as exc:
            raise incomplete() from exc

    headers = {name.lower(): value for name, value in request.headers.items()}
    return Incoming(request.match_info, list(request.query.items()), headers, chunks, gone)
