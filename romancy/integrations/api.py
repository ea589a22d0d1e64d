"""The operations that are offered over HTTP, whatever the framework."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from romancy.core import registry
from romancy.core.codec import JsonCodec
from romancy.core.instance_ids import check_instance_id
from romancy.core.records import Status
from romancy.core.versions import version_key
from romancy.errors import WorkflowBlockedError, WorkflowFailedError
from romancy.integrations import answers, bodies
from romancy.integrations.answers import CancelWish, Page, Started
from romancy.integrations.exchange import Reply
from romancy.integrations.problems import Problem, invalid, told, unknown
from romancy.integrations.queries import Query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from romancy.app import App
    from romancy.client.handle import Handle
    from romancy.core.definitions import Workflow
    from romancy.integrations.exchange import Incoming
    from romancy.integrations.operations import Operation
    from romancy.workflows.channels import Channel

DEFAULT_BODY_LIMIT = 1_048_576
DEFAULT_LONGEST_WAIT = 60.0
"""Seconds that one request for a result waits at most."""
_READY_PATIENCE = 2.0
_READING_PATIENCE = 0.5
"""Seconds that reading the result of an instance that has ended may take at least."""
_encode = msgspec.json.Encoder().encode


class Api:
    """What a mounted router does: each method serves one of `romancy.integrations.operations.OPERATIONS`."""

    def __init__(
        self,
        app: App,
        *,
        workflows: Sequence[Workflow[..., Any]] | None,
        channels: Sequence[Channel[Any]],
        body_limit: int,
        longest_wait: float,
    ) -> None:
        """Prepare.

        Args:
            app: It; open it before requests come.
            workflows: Those that can be started; None: every one that has been imported.
            channels: Those that can be sent on.
            body_limit: Upper bound of a request's body in bytes.
            longest_wait: How many seconds one request for a result may wait.
        """
        self._app = app
        self.body_limit = body_limit
        self.longest_wait = longest_wait
        self._codec = JsonCodec()
        self.channels = {channel.name: channel for channel in channels}
        declared = registry.workflows() if workflows is None else workflows
        self.workflows = {each.name: each for each in sorted(declared, key=lambda each: version_key(each.version))}

    async def serve(self, operation: Operation, incoming: Incoming) -> Reply:
        """Serve a request; what is wrong with it is the reply."""
        return await told(self._serve(operation, incoming))

    async def _serve(self, operation: Operation, incoming: Incoming) -> Reply:
        if operation.is_open:
            return await operation.serve(self, incoming)
        with self._app.client.in_trace_of(incoming.headers):
            return await operation.serve(self, incoming)

    # -- workflows --------------------------------------------------------------------------------------

    async def list_workflows(self, incoming: Incoming) -> Reply:
        """Tell which workflows can be started."""
        Query(incoming.query).finish()
        return _json([{"name": each.name, "version": each.version} for each in self.workflows.values()])

    async def start(self, incoming: Incoming) -> Reply:
        """Start an instance of a workflow."""
        name = incoming.path["workflow"]
        workflow = self.workflows.get(name)
        if workflow is None:
            detail = f"no workflow {name!r} can be started here: see the list of workflows"
            raise unknown("workflow", "There is no such workflow", detail)
        query = Query(incoming.query)
        options: dict[str, Any] = {
            "id": query.text("id"),
            "on_conflict": query.one_of("on_conflict", ("raise", "attach", "restart")) or "raise",
            "start_at": query.instant("start_at"),
            "delay": query.number("delay"),
            "timeout": query.number("timeout"),
            "priority": query.whole("priority") or 0,
            "tags": query.tags("tag"),
        }
        query.finish()
        body = await bodies.read_json(incoming, self.body_limit)
        args, kwargs = workflow.signature.decode_arguments(self._codec, body, workflow.arguments_subject)
        try:
            handle = await self._app.start(workflow(*args, **kwargs), **options)
        except ValueError as exc:
            raise invalid(str(exc)) from exc
        location = f"../instances/{quote(handle.id, safe='')}"
        return _json(Started(handle.id), HTTPStatus.CREATED, {"Location": location})

    # -- instances --------------------------------------------------------------------------------------

    async def list_instances(self, incoming: Incoming) -> Reply:
        """Read a page of instances."""
        query = Query(incoming.query)
        limit = query.whole("limit", 1, 1_000) or 100
        where: dict[str, Any] = {
            "workflow": query.text("workflow"),
            "status": query.text("status"),
            "id_prefix": query.text("id_prefix"),
            "custom_status": query.json("custom_status"),
            "tags": query.tags("tag"),
            "after": query.text("after"),
        }
        query.finish()
        try:
            found = await self._app.list(limit=limit, **where)
        except ValueError as exc:
            raise invalid(str(exc)) from exc
        following = found[-1].cursor if len(found) == limit else None
        return _json(Page([answers.instance(info) for info in found], following))

    async def get_instance(self, incoming: Incoming) -> Reply:
        """Describe an instance."""
        Query(incoming.query).finish()
        return _json(answers.instance(await (await self._handle(incoming)).info()))

    async def get_history(self, incoming: Incoming) -> Reply:
        """Read what a run has recorded."""
        query = Query(incoming.query)
        run = query.whole("run", 0)
        query.finish()
        events = await (await self._handle(incoming)).history(run=run)
        return _json([answers.event(event) for event in events])

    async def get_result(self, incoming: Incoming) -> Reply:
        """Wait for the end of an instance, and tell how it ended."""
        query = Query(incoming.query)
        seconds = query.number("timeout", 0.0, self.longest_wait) or 0.0
        query.finish()
        handle = await self._handle(incoming)
        status = await handle.status()
        if Status[status.upper()] < Status.BLOCKED and not seconds:
            return _going_on(handle.id, status)
        try:
            value = await _unless_gone(handle.result(timeout=max(seconds, _READING_PATIENCE)), incoming.gone())
        except TimeoutError:
            return _going_on(handle.id, await handle.status())
        except WorkflowBlockedError as exc:
            return _json(answers.blocked(handle.id, exc), HTTPStatus.ACCEPTED, {"Retry-After": "10"})
        except WorkflowFailedError as exc:
            return _json(answers.ended_badly(handle.id, exc))
        return _json(answers.completed(handle.id, self._codec.encode(value)))

    async def send(self, incoming: Incoming) -> Reply:
        """Send a message to an instance."""
        name = incoming.path["channel"]
        channel = self.channels.get(name)
        if channel is None:
            detail = f"nothing can be sent on channel {name!r} here: name it in channels= where the router is made"
            raise unknown("channel", "There is no such channel", detail)
        query = Query(incoming.query)
        message_id = query.text("message_id")
        query.finish()
        id = _id_of(incoming)
        message = channel.decode(self._codec, await bodies.read_json(incoming, self.body_limit, is_needed=True))
        await self._app.send(channel, message, to=id, message_id=message_id)
        return Reply(HTTPStatus.NO_CONTENT.value)

    async def cancel(self, incoming: Incoming) -> Reply:
        """Ask an instance to cancel."""
        Query(incoming.query).finish()
        id = _id_of(incoming)
        body = await bodies.read_json(incoming, self.body_limit)
        try:
            wish = msgspec.json.decode(body, type=CancelWish)
            await self._app.cancel(id, wish.reason, grace=wish.grace)
        except (ValueError, msgspec.ValidationError) as exc:
            raise invalid(str(exc)) from exc
        return Reply(HTTPStatus.ACCEPTED.value, b"{}")

    async def _handle(self, incoming: Incoming) -> Handle[Any]:
        return await self._app.get(_id_of(incoming))

    # -- health -----------------------------------------------------------------------------------------

    async def live(self, incoming: Incoming) -> Reply:  # noqa: ARG002 - every operation is given its request
        """Tell that the process serves requests."""
        return _json({"status": "live"})

    async def ready(self, incoming: Incoming) -> Reply:  # noqa: ARG002 - likewise
        """Tell whether the App is open, its worker holds a session, and the database answers."""
        try:
            async with asyncio.timeout(_READY_PATIENCE):
                await self._app.check()
        except TimeoutError as exc:
            raise _not_ready(f"the database has not answered within {_READY_PATIENCE} s") from exc
        return _json({"status": "ready"})


def _going_on(id: str, status: str) -> Reply:
    return _json(answers.going_on(id, status), HTTPStatus.ACCEPTED, {"Retry-After": "1"})


def _not_ready(detail: str) -> Problem:
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", "Not ready", detail, headers={"Retry-After": "1"})


def _json(value: object, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status.value, _encode(value), headers=headers or {})


def _id_of(incoming: Incoming) -> str:
    """Return the id that a request names; what can't be an id names no instance."""
    id = incoming.path["id"]
    try:
        check_instance_id(id)
    except ValueError as exc:
        raise unknown("instance", "There is no such instance", str(exc)) from exc
    return id


async def _unless_gone(result: Awaitable[object], gone: Awaitable[None]) -> object:
    """Wait for a result for as long as the client does; neither wait outlives this one.

    Raises:
        TimeoutError: The client has gone.
        BaseException: What the wait for the result raises.
    """
    waiting = asyncio.ensure_future(result)
    leaving = asyncio.ensure_future(gone)
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise TimeoutError
        return waiting.result()
    finally:
        waiting.cancel()
        leaving.cancel()
        await asyncio.wait({waiting, leaving})
        for task in (waiting, leaving):
            if not task.cancelled():
                task.exception()  # looked at: it may have failed while it was cancelled
