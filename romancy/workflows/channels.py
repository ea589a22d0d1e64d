"""Channels: named, typed streams of messages to instances."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from romancy.core.calls import Call, ReceiveCall, SendCall
from romancy.core.codec import Subject, check_size, decode_value, encode_value
from romancy.errors import DefinitionError
from romancy.replay.context import current_execution

if TYPE_CHECKING:
    from collections.abc import Callable

    from romancy.core.codec import Codec

T = TypeVar("T")


class Channel(Generic[T]):
    """A named, typed stream. Messages to an instance wait in its inbox until it receives them.

    Messages of one sender arrive in the order in which they were sent.
    """

    def __init__(self, name: str, type: type[T]) -> None:  # noqa: A002 - the word that an author expects
        """Declare the channel.

        Args:
            name: Its name in the database; what sends and receives on it must use the same.
            type: What a message is: anything that can be an activity's argument.

        Raises:
            DefinitionError: The name is empty or holds a colon or white space.
        """
        if not name or any(c.isspace() or c == ":" or not c.isprintable() for c in name):
            msg = f"{name!r} can't name a channel: use printable characters without spaces and colons"
            raise DefinitionError(msg)
        self.name = name
        self._type = type
        self._subject = Subject("message", "channel", name)
        self._compiled: tuple[Codec, Callable[[bytes], object]] | None = None

    def encode(self, codec: Codec, message: T, limit: int) -> bytes:
        """Encode a message, and decode it once, so that what can't be read later is refused now.

        Raises:
            CodecError: It is not what the channel carries.
            PayloadTooLargeError: It is over ``limit`` bytes.
        """
        payload = encode_value(codec, message, self._subject)
        check_size(payload, limit, self._subject)
        self.decode(codec, payload)
        return payload

    def decode(self, codec: Codec, payload: bytes) -> T:
        """Decode a message.

        Raises:
            CodecError: It is not what the channel carries.
        """
        compiled = self._compiled
        if compiled is None or compiled[0] is not codec:
            compiled = self._compiled = (codec, codec.decoder(self._type))
        return cast("T", decode_value(compiled[1], payload, self._subject))

    def receive(self, *, timeout: timedelta | float | None = None) -> Call[T]:
        """Wait for the next message; a cancelled receive loses nothing.

        Args:
            timeout: How long to wait: a timedelta, or seconds; None: for ever. `TimeoutError` is raised then.

        Raises:
            OutsideWorkflowError: When awaited where no workflow runs.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        execution = current_execution(f"Channel({self.name!r}).receive()")
        return ReceiveCall(self.name, partial(self.decode, execution.codec), seconds)

    def send(self, message: T, *, to: str) -> Call[None]:
        """Send to another instance from workflow code; recorded, and never sent again by a replay.

        Awaiting it raises `InstanceNotFoundError` or `InstanceClosedError` if the instance can't take it.
        From outside of a workflow use `Client.send`.

        Raises:
            CodecError: The message is not what the channel carries.
            PayloadTooLargeError: It is over the limit.
            OutsideWorkflowError: No workflow runs here.
        """
        execution = current_execution(f"Channel({self.name!r}).send()")
        return SendCall(self.name, self.encode(execution.codec, message, execution.payload_limit), to)

    def __repr__(self) -> str:
        return f"<channel {self.name}>"
