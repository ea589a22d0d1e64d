"""What is offered: methods, paths, and their description as OpenAPI has it (https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from romancy.core.records import Status
from romancy.integrations.answers import CancelWish, EventAnswer, InstanceAnswer, Page, ResultAnswer, Started
from romancy.integrations.api import Api
from romancy.integrations.exchange import JSON, Incoming, Reply
from romancy.integrations.problems import MEDIA_TYPE, ProblemDocument
from romancy.integrations.schemas import arguments_schema, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT = {"type": "string"}
_SECONDS = {"type": "number", "minimum": 0}
_STATUSES = [status.name.lower() for status in Status]


class Operation(NamedTuple):
    """One operation.

    Attributes:
        name: Unique; the name of the `Api`'s method.
        method: The HTTP method.
        path: With parameters in braces; ``{id}`` may hold slashes.
        serve: Serves it.
        summary: What it does, for people.
        is_open: It needs no authorization.
        query: The schemas of its query parameters by name.
        answers: The schemas of its replies by status; None: an empty body.
        problems: The statuses of problem documents that it may reply with.
        body: The schema of its body; None: it has none.
    """

    name: str
    method: str
    path: str
    serve: Callable[[Api, Incoming], Awaitable[Reply]]
    summary: str
    answers: dict[int, dict[str, Any] | None]
    problems: tuple[int, ...] = ()
    query: Mapping[str, dict[str, Any]] = MappingProxyType({})
    body: dict[str, Any] | None = None
    is_open: bool = False


_TAGS = {"type": "array", "items": {"type": "string", "pattern": "^[^:]+:"}}

OPERATIONS = (
    Operation(
        "list_workflows",
        "GET",
        "/workflows",
        Api.list_workflows,
        "List the workflows that can be started",
        {200: {"type": "array", "items": {"type": "object", "required": ["name", "version"]}}},
        (422,),
    ),
    Operation(
        "start",
        "POST",
        "/workflows/{workflow}",
        Api.start,
        "Start an instance of a workflow; its arguments, by name, are the body",
        {201: schema_of(Started)},
        (400, 404, 409, 413, 415, 422),
        {
            "id": {**_TEXT, "minLength": 1, "maxLength": 255},
            "on_conflict": {"enum": ["raise", "attach", "restart"]},
            "start_at": {"type": "string", "format": "date-time"},
            "delay": _SECONDS,
            "timeout": {"type": "number", "exclusiveMinimum": 0},
            "priority": {"type": "integer", "minimum": -2, "maximum": 2},
            "tag": _TAGS,
        },
        {"type": "object"},
    ),
    Operation(
        "list_instances",
        "GET",
        "/instances",
        Api.list_instances,
        "List instances in the order of their start",
        {200: schema_of(Page)},
        (422,),
        {
            "workflow": _TEXT,
            "status": {"enum": _STATUSES},
            "id_prefix": _TEXT,
            "custom_status": {**_TEXT, "contentMediaType": JSON},
            "tag": _TAGS,
            "after": {"type": "string", "pattern": "^[0-9]{1,18}$"},
            "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
        },
    ),
    # Before the instance itself, whose id may hold slashes.
    Operation(
        "get_result",
        "GET",
        "/instances/{id}/result",
        Api.get_result,
        "Wait for an instance's end, for some seconds, and tell how it ended",
        {200: schema_of(ResultAnswer), 202: schema_of(ResultAnswer)},
        (404, 422),
        {"timeout": _SECONDS},
    ),
    Operation(
        "get_history",
        "GET",
        "/instances/{id}/history",
        Api.get_history,
        "Read what a run of an instance has recorded, by default its latest",
        {200: {"type": "array", "items": schema_of(EventAnswer)}},
        (404, 422),
        {"run": {"type": "integer", "minimum": 0, "maximum": 2147483647}},
    ),
    Operation(
        "send",
        "POST",
        "/instances/{id}/messages/{channel}",
        Api.send,
        "Send a message to an instance; it is in the database when this replies",
        {204: None},
        (400, 404, 409, 413, 415, 422),
        {"message_id": _TEXT},
        {},
    ),
    Operation(
        "cancel",
        "POST",
        "/instances/{id}/cancel",
        Api.cancel,
        "Ask an instance to cancel",
        {202: {"type": "object"}},
        (400, 404, 409, 413, 415, 422),
        body=schema_of(CancelWish),
    ),
    Operation(
        "get_instance",
        "GET",
        "/instances/{id}",
        Api.get_instance,
        "Describe an instance",
        {200: schema_of(InstanceAnswer)},
        (404, 422),
    ),
    Operation(
        "live",
        "GET",
        "/health/live",
        Api.live,
        "Tell that the process serves requests",
        {200: {"type": "object"}},
        is_open=True,
    ),
    Operation(
        "ready",
        "GET",
        "/health/ready",
        Api.ready,
        "Tell whether the App is open, its worker holds a session, and the database answers",
        {200: {"type": "object"}},
        is_open=True,
    ),
)


def operations_of(api: Api) -> Iterator[Operation]:
    """Return the operations of a router: starting is one for each workflow, and sending one for each channel.

    The general ones, which tell what is wrong with a name, come after those.
    """
    for operation in OPERATIONS:
        if operation.name == "start":
            for name, workflow in api.workflows.items():
                serve = _with_path(operation, "workflow", name)
                yield operation._replace(
                    name=f"start_{name}",
                    path=operation.path.replace("{workflow}", name),
                    serve=serve,
                    summary=f"Start an instance of workflow {name}; its arguments, by name, are the body",
                    body=arguments_schema(workflow),
                )
        elif operation.name == "send":
            for name, channel in api.channels.items():
                yield operation._replace(
                    name=f"send_{name}",
                    path=operation.path.replace("{channel}", name),
                    serve=_with_path(operation, "channel", name),
                    summary=f"Send a message on channel {name} to an instance",
                    body=schema_of(channel.type),
                )
        elif operation.name == "get_result":
            yield operation._replace(query={"timeout": {**_SECONDS, "maximum": api.longest_wait}})
            continue
        yield operation


def _with_path(operation: Operation, parameter: str, value: str) -> Callable[[Api, Incoming], Awaitable[Reply]]:
    """Return what serves an operation one of whose path's parameters is fixed."""

    def serve(api: Api, incoming: Incoming) -> Awaitable[Reply]:
        return operation.serve(api, incoming.at({**incoming.path, parameter: value}))

    return serve


def described(operation: Operation) -> dict[str, Any]:
    """Return an operation as an OpenAPI document describes it."""
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}
        for part in operation.path.split("/")
        if part.startswith("{")
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    found: dict[str, Any] = {"summary": operation.summary, "parameters": parameters, "responses": {}}
    if operation.body is not None:
        # Without one, a workflow takes its defaults; there is no message that is nothing.
        is_needed = bool(operation.body.get("required")) or operation.name.startswith("send")
        found["requestBody"] = {"content": {JSON: {"schema": operation.body}}, "required": is_needed}
    for status, schema in operation.answers.items():
        reply: dict[str, Any] = {"description": operation.summary}
        if schema is not None:
            reply["content"] = {JSON: {"schema": schema}}
        found["responses"][str(status)] = reply
    problem = {"content": {MEDIA_TYPE: {"schema": schema_of(ProblemDocument)}}}
    for status in (*operation.problems, 503):
        found["responses"][str(status)] = {"description": "A problem, as RFC 9457 describes it", **problem}
    return found
