"""Reading bodies: no more than is allowed, and JSON only."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from romancy.integrations.problems import Problem

if TYPE_CHECKING:
    from romancy.integrations.exchange import Incoming

_NOT_JSON = "Not JSON"


async def read(incoming: Incoming, limit: int) -> bytes:
    """Return a request's body.

    Raises:
        Problem: It is longer than ``limit`` bytes; no more than that is read.
    """
    told = incoming.headers.get("content-length", "")
    if told.isascii() and told.isdigit() and int(told) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in incoming.chunks():
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        body += chunk
    return bytes(body)


async def read_json(incoming: Incoming, limit: int, *, is_needed: bool = False) -> bytes:
    """Return a request's body, which is JSON; an empty one is ``{}``, unless one ``is_needed``.

    Raises:
        Problem: It is too long, says that it is something else, or is no JSON.
    """
    body = await read(incoming, limit)
    if not body and not is_needed:
        return b"{}"
    if not is_json(incoming.headers.get("content-type", "")):
        detail = f"the body is {incoming.headers.get('content-type', 'of no type')!r}: send application/json"
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not-json", _NOT_JSON, detail)
    check_json(body)
    return body


def is_json(content_type: str) -> bool:
    """Tell whether a content type is JSON, or something in the form of JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def check_json(body: bytes) -> None:
    """Refuse what is no JSON.

    Raises:
        Problem: It is none, or nested too deeply.
    """
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        detail = f"the body can't be read: {exc}"
        raise Problem(HTTPStatus.BAD_REQUEST, "malformed-json", _NOT_JSON, detail) from exc


def _too_large(limit: int) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "Too large", f"the body is longer than {limit:,} bytes"
    )
