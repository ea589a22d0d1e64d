"""CloudEvents 1.0 over HTTP (https://github.com/cloudevents/spec): an event starts a workflow, or is a message.

An event is answered after it is in the database. It is known by its ``source`` and ``id``: sent again, it is answered
as before and does nothing, for as long as the instance that it has started is kept, or the App's
``message_retention`` lasts for a message.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from hashlib import blake2b
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from romancy.core.codec import JsonCodec
from romancy.core.tracing import TRACE_HEADERS
from romancy.errors import InstanceAlreadyExistsError
from romancy.integrations import bodies
from romancy.integrations.exchange import Reply
from romancy.integrations.problems import Problem, invalid, told, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from romancy.app import App
    from romancy.core.definitions import Workflow
    from romancy.integrations.exchange import Incoming
    from romancy.workflows.channels import Channel

__all__ = ["CloudEvent", "EventRoute", "Publishes", "Receiver", "Sends", "Starts"]

CloudEvent: TypeAlias = BaseCloudEvent
EVENT_TAG = "cloudevent"
"""The tag by which an instance that an event has started is known: a digest of the event's source and id."""
_STRUCTURED = "application/cloudevents+json"
_REQUIRED = ("specversion", "type", "source", "id")
_INVALID = "No valid CloudEvent"


class _On:
    """Which events a route is for: shell-style patterns of their type and subject."""

    def __init__(self, type: str, subject: str | None) -> None:
        self.type = type
        self.subject = subject

    def fits(self, event: CloudEvent) -> bool:
        """Tell whether an event is meant."""
        if not fnmatchcase(event.get_type(), self.type):
            return False
        return self.subject is None or fnmatchcase(event.get_subject() or "", self.subject)


class Starts(_On):
    """An event that starts a workflow: ``Starts("com.example.order.placed", fulfil)``."""

    def __init__(
        self,
        type: str,
        workflow: Workflow[..., Any],
        *,
        subject: str | None = None,
        id: Callable[[CloudEvent], str] | None = None,
    ) -> None:
        """Describe it.

        Args:
            type: The event's type; ``*`` stands for anything.
            workflow: What to start. Its arguments, by name, are the event's data; if it has one parameter, the data is
                that argument.
            subject: The event's subject, likewise; None: any, or none.
            id: Returns the id of the instance, such as the event's subject; by default one that is made of the
                event's source and id.
        """
        super().__init__(type, subject)
        self.workflow = workflow
        self.id = id


class Sends(_On):
    """An event that is a message to an instance: ``Sends("com.example.approved", approvals)``."""

    def __init__(
        self,
        type: str,
        channel: Channel[Any],
        *,
        subject: str | None = None,
        to: Callable[[CloudEvent], str] | None = None,
    ) -> None:
        """Describe it.

        Args:
            type: The event's type; ``*`` stands for anything.
            channel: What to send on; the event's data is the message.
            subject: The event's subject, likewise; None: any.
            to: Returns the id of the instance; by default the event's subject.
        """
        super().__init__(type, subject)
        self.channel = channel
        self.to = to


class Publishes(_On):
    """An event that is published to a channel's subscribers: ``Publishes("com.example.price.*", prices)``."""

    def __init__(self, type: str, channel: Channel[Any], *, subject: str | None = None) -> None:
        """Describe it; see `Sends`."""
        super().__init__(type, subject)
        self.channel = channel


EventRoute: TypeAlias = Starts | Sends | Publishes


class Receiver:
    """Take events: whatever becomes of one is in the database when it is answered, or it is not answered well."""

    def __init__(self, app: App, on: Sequence[EventRoute], *, body_limit: int) -> None:
        """Prepare.

        Args:
            app: Open it before events come.
            on: What becomes of which events; the first that fits.
            body_limit: Upper bound of a request's body in bytes.
        """
        self._app = app
        self._routes = tuple(on)
        self._body_limit = body_limit
        self._codec = JsonCodec()

    async def serve(self, incoming: Incoming) -> Reply:
        """Take one event; what is wrong with it is the reply."""
        return await told(self._serve(incoming))

    async def _serve(self, incoming: Incoming) -> Reply:
        event, data = await self._read(incoming)
        client = self._app.client
        with client.in_trace_of(incoming.headers), client.in_trace_of(_extensions(event), is_preferred=True):
            return await self._take(event, data)

    async def _read(self, incoming: Incoming) -> tuple[CloudEvent, bytes]:
        """Return an event and its data, which is JSON."""
        body = await bodies.read(incoming, self._body_limit)
        kind = incoming.headers.get("content-type", "").partition(";")[0].strip().lower()
        headers = {name: value for name, value in incoming.headers.items() if name.startswith("ce-")}
        if kind == _STRUCTURED:
            headers = {}
            bodies.check_json(body)
            attributes: Mapping[str, object] = _object_of(body)
            data = bytes(cast("Mapping[str, msgspec.Raw]", attributes).get("data", b"null"))
            if "data_base64" in attributes:
                raise _unreadable("its data is binary: data_base64 is not taken here")
        elif kind.startswith("application/cloudevents"):
            detail = f"{kind} is not taken here: send one event as {_STRUCTURED}, or its attributes as headers"
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "event-format", _INVALID, detail)
        else:
            attributes = {name.removeprefix("ce-"): value for name, value in headers.items()}
            data = body or b"null"
            if body and not bodies.is_json(kind):
                detail = f"the event's data is {kind or 'of no type'!r}: send application/json"
                raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not-json", "Not JSON", detail)
            bodies.check_json(data)
        for name in _REQUIRED:  # the SDK would make up an id, and the event would never be known again
            if name not in attributes:
                raise _unreadable(f"it has no {name!r}")
        message = HTTPMessage(headers={**headers, "content-type": kind}, body=body)
        try:
            return from_http_event(message), data
        except Exception as exc:
            raise _unreadable(str(exc)) from exc

    async def _take(self, event: CloudEvent, data: bytes) -> Reply:
        for route in self._routes:
            if route.fits(event):
                break
        else:
            detail = f"nothing is to become of events of type {event.get_type()!r}, subject {event.get_subject()!r}"
            raise unknown("event", "No such event is expected", detail)
        mark = _mark_of(event)
        try:
            match route:
                case Starts():
                    await self._start(route, event, data, mark)
                case Sends():
                    to = (event.get_subject() or "") if route.to is None else route.to(event)
                    if not to:
                        raise invalid("the event has no subject, which would name the instance that it is for")
                    message = route.channel.decode(self._codec, data)
                    await self._app.send(route.channel, message, to=to, message_id=mark)
                case Publishes():
                    message = route.channel.decode(self._codec, data)
                    await self._app.publish(route.channel, message, message_id=mark)
        except ValueError as exc:
            raise invalid(str(exc)) from exc
        return Reply(HTTPStatus.NO_CONTENT.value)

    async def _start(self, route: Starts, event: CloudEvent, data: bytes, mark: str) -> None:
        """Start an instance, unless this very event has started it before.

        Raises:
            InstanceAlreadyExistsError: Something else has taken its id.
        """
        workflow = route.workflow
        only = workflow.signature.only_parameter
        arguments = data if only is None else b"{%s:%s}" % (msgspec.json.encode(only), data)
        args, kwargs = workflow.signature.decode_arguments(self._codec, arguments, workflow.arguments_subject)
        id = f"event-{mark}" if route.id is None else route.id(event)
        try:
            await self._app.start(workflow(*args, **kwargs), id=id, tags={EVENT_TAG: mark})
        except InstanceAlreadyExistsError:
            if (await (await self._app.get(id)).info()).tags.get(EVENT_TAG) != mark:
                raise


def _object_of(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as exc:
        raise _unreadable(str(exc)) from exc


def _unreadable(why: str) -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "invalid-event", _INVALID, f"the event can't be read: {why}")


def _mark_of(event: CloudEvent) -> str:
    """Return what an event is known by, whatever characters its source and id hold."""
    name = msgspec.json.encode([event.get_source(), event.get_id()])
    return blake2b(name, digest_size=20).hexdigest()


def _extensions(event: CloudEvent) -> dict[str, str]:
    """Return the trace context that an event carries, by the distributed tracing extension."""
    found = ((name, event.get_extension(name)) for name in TRACE_HEADERS)
    return {name: value for name, value in found if isinstance(value, str)}
