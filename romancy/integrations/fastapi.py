"""FastAPI: a lifespan, a dependency, and a router that shows in the OpenAPI document."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from romancy.app import App
from romancy.integrations.api import DEFAULT_BODY_LIMIT, DEFAULT_LONGEST_WAIT, Api
from romancy.integrations.authorizing import OPEN, guard_of
from romancy.integrations.operations import described, operations_of
from romancy.integrations.problems import forbidden
from romancy.integrations.starlette import app_of, endpoint, lifespan, response_of, with_slashes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from romancy.core.definitions import Workflow
    from romancy.integrations.authorizing import Authorize
    from romancy.integrations.cloud_events import EventRoute
    from romancy.integrations.exchange import Incoming, Reply
    from romancy.workflows.channels import Channel

__all__ = ["OPEN", "WorkflowsDep", "cloud_events", "lifespan", "router"]

WorkflowsDep = Annotated[App, Depends(app_of)]
"""The App that the application's `lifespan` has opened: ``async def place(order: Order, workflows: WorkflowsDep)``."""


def router(
    app: App,
    *,
    authorize: Authorize,
    workflows: Sequence[Workflow[..., Any]] | None = None,
    channels: Sequence[Channel[Any]] = (),
    body_limit: int = DEFAULT_BODY_LIMIT,
    longest_wait: float = DEFAULT_LONGEST_WAIT,
) -> APIRouter:
    """Return a router to start, list, watch, message and cancel instances, and to ask for the service's health.

    ``application.include_router(router(workflows, authorize=only_staff), prefix="/durable")``

    Args:
        app: Whose instances; see `lifespan`.
        authorize: Who may use it: a dependency that raises an ``HTTPException`` or returns False for those who may
            not, and shows in the OpenAPI document as any does; or ``"open"``: everybody. The health routes are open in
            any case.
        workflows: Those that can be started; None: every one that has been imported by now.
        channels: Those that can be sent on.
        body_limit: The most bytes of a request's body.
        longest_wait: How many seconds one request for a result may wait: less than proxies in between allow.

    Raises:
        TypeError: ``authorize`` is neither.
    """
    api = Api(app, workflows=workflows, channels=channels, body_limit=body_limit, longest_wait=longest_wait)
    guard = guard_of(authorize)
    made = APIRouter()
    for operation in operations_of(api):
        made.add_api_route(
            with_slashes(operation.path),
            _guarded(partial(api.serve, operation), None if operation.is_open else guard),
            methods=[operation.method],
            name=f"romancy_{operation.name}",
            operation_id=f"romancy_{operation.name}",
            response_class=Response,
            status_code=next(iter(operation.answers)),
            openapi_extra=described(operation),
            include_in_schema="{workflow}" not in operation.path and "{channel}" not in operation.path,
        )
    return made


def cloud_events(
    path: str, app: App, on: Sequence[EventRoute], *, authorize: Authorize, body_limit: int = DEFAULT_BODY_LIMIT
) -> APIRouter:
    """Return a router that takes CloudEvents at a path; see `romancy.integrations.cloud_events`.

    Args:
        path: Where.
        app: Whose workflows are started, and whose channels are sent on.
        on: What becomes of which events; the first that fits.
        authorize: As of `router`.
        body_limit: The most bytes of a request's body.

    Raises:
        TypeError: ``authorize`` is neither a dependency nor ``"open"``.
    """
    from romancy.integrations.cloud_events import Receiver

    receiver = Receiver(app, on, body_limit=body_limit)
    made = APIRouter()
    made.add_api_route(
        path,
        _guarded(receiver.serve, guard_of(authorize)),
        methods=["POST"],
        name="romancy_cloud_events",
        response_class=Response,
        status_code=204,
        include_in_schema=False,
    )
    return made


def _guarded(
    serve: Callable[[Incoming], Awaitable[Reply]], guard: Callable[..., Any] | None
) -> Callable[..., Awaitable[Response]]:
    """Return an endpoint that depends on the guard."""
    unguarded = endpoint(serve, None)
    if guard is None:
        return unguarded

    async def guarded(request: Request, answer: object) -> Response:
        return response_of(forbidden().reply()) if answer is False else await unguarded(request)

    # Said so, and not where the parameter is: FastAPI looks names up in the module, where the guard has none.
    guarded.__annotations__ = {"request": Request, "answer": Annotated[Any, Depends(guard)]}
    return guarded
