"""Requests and replies as values, whatever the framework."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence

import msgspec

JSON = "application/json"


class Incoming(msgspec.Struct, frozen=True):
    """A request.

    Attributes:
        path: The parameters of its path, decoded.
        query: Its query, decoded, in its order.
        headers: Its headers; their names are lower case.
        chunks: Its body, once.
        gone: Returns when the client does not wait for the reply any more.
    """

    path: Mapping[str, str]
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    chunks: Callable[[], AsyncIterable[bytes]]
    gone: Callable[[], Awaitable[None]]

    def at(self, path: Mapping[str, str]) -> Incoming:
        """Return the request with other parameters of its path."""
        return msgspec.structs.replace(self, path=path)


class Reply(msgspec.Struct, frozen=True):
    """A reply."""

    status: int
    body: bytes = b""
    media_type: str = JSON
    headers: Mapping[str, str] = {}
