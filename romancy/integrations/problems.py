"""What is wrong with a request, as RFC 9457 problem documents: https://www.rfc-editor.org/rfc/rfc9457."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from romancy.errors import (
    DOCUMENTATION,
    ChannelModeError,
    CodecError,
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
    NoAppError,
    PayloadTooLargeError,
    RomancyError,
    StorageError,
)
from romancy.integrations.exchange import Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER = {"Retry-After": "1"}


class ProblemDocument(msgspec.Struct, frozen=True):
    """The body of a reply that tells what is wrong; ``type`` is the address of the page that describes the kind."""

    type: str
    title: str
    status: int
    detail: str


class Problem(Exception):
    """A request that can't be served; raised where that is found, and replied with."""

    def __init__(
        self, status: HTTPStatus, kind: str, title: str, detail: str, *, headers: dict[str, str] | None = None
    ) -> None:
        """Describe it.

        Args:
            status: The reply's status.
            kind: What kind of problem it is, in the form ``unknown-workflow``.
            title: The same for people, the same for all of a kind.
            detail: What happened, to which id, and what to do.
            headers: Of the reply.
        """
        super().__init__(detail)
        self.status = status
        self.headers = headers or {}
        self.document = ProblemDocument(f"{DOCUMENTATION}/reference/problems.html#{kind}", title, status.value, detail)

    def reply(self) -> Reply:
        """Return the reply that tells of it."""
        return Reply(self.status.value, msgspec.json.encode(self.document), MEDIA_TYPE, self.headers)


_KINDS: tuple[tuple[type[RomancyError], HTTPStatus, str, str], ...] = (
    (InstanceNotFoundError, HTTPStatus.NOT_FOUND, "unknown-instance", "There is no such instance"),
    (InstanceAlreadyExistsError, HTTPStatus.CONFLICT, "instance-exists", "The id is taken"),
    (InstanceRunningError, HTTPStatus.CONFLICT, "instance-running", "The instance has not ended"),
    (InstanceClosedError, HTTPStatus.CONFLICT, "instance-closed", "The instance has ended"),
    (ChannelModeError, HTTPStatus.CONFLICT, "channel-mode", "The channel is used in another way"),
    (PayloadTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "Too large"),
    (CodecError, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-body", "The body is not what is expected"),
    (NoAppError, HTTPStatus.SERVICE_UNAVAILABLE, "not-open", "The service is starting or stopping"),
    (StorageError, HTTPStatus.SERVICE_UNAVAILABLE, "database", "The database can't be reached"),
)


async def told(serving: Awaitable[Reply]) -> Reply:
    """Return the reply of what serves a request, or that which tells what is wrong with the request.

    Raises:
        BaseException: What is wrong with the service: nothing that a client could know or do about.
    """
    try:
        return await serving
    except Problem as problem:
        return problem.reply()
    except RomancyError as error:
        for cls, status, kind, title in _KINDS:
            if isinstance(error, cls):
                is_passing = status is HTTPStatus.SERVICE_UNAVAILABLE
                headers = _RETRY_AFTER if is_passing else None
                return Problem(status, kind, title, str(error), headers=headers).reply()
        raise


def unknown(what: str, title: str, detail: str) -> Problem:
    """Return the problem of a name that nothing has."""
    return Problem(HTTPStatus.NOT_FOUND, f"unknown-{what}", title, detail)


def invalid(detail: str) -> Problem:
    """Return the problem of a parameter that can't be used."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-parameter", "A parameter can't be used", detail)


def incomplete() -> Problem:
    """Return the problem of a body that ends too early; hardly anybody is left to hear of it."""
    detail = "the connection was lost in the middle of the body"
    return Problem(HTTPStatus.BAD_REQUEST, "incomplete-body", "Incomplete", detail)


def forbidden() -> Problem:
    """Return the problem of a request that is not allowed."""
    return Problem(HTTPStatus.FORBIDDEN, "forbidden", "Not allowed", "the request is not authorized")
