"""Named, typed streams of messages to instances."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

import msgspec

from romancy.core.calls import Call, CallKind, ReceiveCall, RequestCall
from romancy.core.clock import MICROSECONDS
from romancy.core.codec import Subject, check_size, decode_value, encode_value
from romancy.core.durations import seconds_of
from romancy.core.events import Envelope, SendOutcome
from romancy.core.requests import ChannelMode, Publish, Send
from romancy.core.tracing import TRACE_HEADERS
from romancy.errors import ChannelModeError, DefinitionError, InstanceClosedError, InstanceNotFoundError
from romancy.replay.context import current_execution
from romancy.workflows.subscriptions import Subscription

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta

    from romancy.core.codec import Codec
    from romancy.core.tracing import TraceContext
    from romancy.replay.execution import Execution

T = TypeVar("T")

HEADERS_LIMIT = 16_384
"""The most bytes that a message's headers take, encoded."""

_envelope_or_none = msgspec.json.Decoder(Envelope | None)


class Message(msgspec.Struct, Generic[T], frozen=True):
    """A message with its surroundings.

    Attributes:
        value: What it carries.
        id: Its id: two messages with one id to one instance, or on one topic, are one message.
        sender: The id of the instance that sent or published it; None if that was done from outside.
        time: When it was sent or published, by the database's clock; an aware UTC datetime.
        headers: What was sent along with it.
    """

    value: T
    id: str
    sender: str | None
    time: datetime
    headers: dict[str, str]


class Channel(Generic[T]):
    """A named, typed stream of messages.

    It is used in one of three ways, and the first use decides which:

    - *direct*: `send` puts a message into one instance's inbox, where `receive` takes it;
    - *broadcast*: every open `subscribe` gets every message that is published from then on;
    - *competing*: ``subscribe(mode="competing")``: every published message goes to one of those that wait.

    Messages of one sender arrive in the order in which they were sent. Using a channel in another way than it is used
    already raises `ChannelModeError`.
    """

    def __init__(self, name: str, type: type[T]) -> None:
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
        self.type = type
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
            compiled = self._compiled = (codec, codec.decoder(self.type))
        return cast("T", decode_value(compiled[1], payload, self._subject))

    # -- receiving --------------------------------------------------------------------------------------

    def receive(self, *, timeout: timedelta | float | None = None) -> Call[T]:
        """Wait for the next message that was sent to this instance; a cancelled receive loses nothing.

        Args:
            timeout: How long to wait: a timedelta, or seconds; None: for ever. `TimeoutError` is raised then.

        Raises:
            OutsideWorkflowError: When awaited where no workflow runs.
            ChannelModeError: The run has subscribed to the channel: receive on the subscription.
        """
        execution = self._direct("receive")
        return ReceiveCall(self.name, partial(self.value_of, execution.codec), seconds_of(timeout))

    def receive_message(self, *, timeout: timedelta | float | None = None) -> Call[Message[T]]:
        """Wait for the next message as `receive` does, and return it with its id, sender, time and headers."""
        execution = self._direct("receive_message")
        return ReceiveCall(self.name, partial(self.message_of, execution.codec), seconds_of(timeout))

    def try_receive(self, default: T | None = None) -> T | None:
        """Return the next message if there is one now, else ``default``; recorded, and the same at every replay.

        It sees what had reached the instance when its present turn began, and takes no message from a `receive` that
        waits already.

        Raises:
            OutsideWorkflowError: No workflow runs here.
            ChannelModeError: The run has subscribed to the channel: use the subscription.
        """
        found = self.try_receive_message()
        return default if found is None else found.value

    def try_receive_message(self) -> Message[T] | None:
        """Return the next message, with its surroundings, if there is one now; see `try_receive`."""
        return self.try_mailbox(self._direct("try_receive"), self.name)

    def _direct(self, what: str) -> Execution:
        execution = current_execution(f"Channel({self.name!r}).{what}()")
        if self.name in execution.operations.subscriptions.values():
            msg = (
                f"instance {execution.instance_id!r} has subscribed to channel {self.name!r}: receive on what "
                "`async with channel.subscribe() as subscription` gives"
            )
            raise ChannelModeError(msg)
        return execution

    def subscribe(self, *, mode: Literal["broadcast", "competing"] = "broadcast") -> Subscription[T]:
        """Subscribe this instance to what is published to the channel: ``async with channel.subscribe() as messages``.

        Args:
            mode: ``"broadcast"``: every subscription gets every message that is published once it is open;
                ``"competing"``: every message goes to one receive, to the one that has waited longest; what nobody
                waits for stays until somebody does (before the first subscription ever, for the App's
                ``message_retention``).

        Raises:
            OutsideWorkflowError: No workflow runs here.
            ValueError: There is no such mode.
        """
        if mode not in {"broadcast", "competing"}:
            msg = f"{mode!r} is no mode of a subscription: use 'broadcast' or 'competing'"
            raise ValueError(msg)
        execution = current_execution(f"Channel({self.name!r}).subscribe()")
        return Subscription(execution, self, ChannelMode[mode.upper()])

    # -- sending from a workflow ------------------------------------------------------------------------

    def send(self, message: T, *, to: str, headers: Mapping[str, str] | None = None) -> Call[None]:
        """Send to another instance from workflow code; recorded, and never sent again by a replay.

        Awaiting it raises `InstanceNotFoundError` or `InstanceClosedError` if the instance can't take it, and
        `ChannelModeError` if the channel is a topic. From outside of a workflow use `Client.send`.

        Args:
            message: What it carries.
            to: The instance's id.
            headers: Texts to send along.

        Raises:
            CodecError: The message is not what the channel carries.
            PayloadTooLargeError: It, or its headers, are over the limit.
            OutsideWorkflowError: No workflow runs here.
        """
        execution = current_execution(f"Channel({self.name!r}).send()")
        body = self.encode(execution.codec, message, execution.payload_limit)
        encoded = encode_headers(headers, execution.trace)

        def ask(activity_id: str) -> Send:
            return Send(
                activity_id,
                to,
                self.name,
                body,
                execution.names.message_id(activity_id),
                encoded,
            )

        return RequestCall(CallKind.SEND, self.name, ask, partial(check_sent, self.name, to), to=to)

    def publish(self, message: T, *, headers: Mapping[str, str] | None = None) -> Call[None]:
        """Publish to the channel's subscribers from workflow code; recorded, and never published again by a replay.

        Awaiting it returns when the message is in the topic, whether or not anybody has subscribed, and raises
        `ChannelModeError` if messages are sent directly on this channel. From outside use `Client.publish`.

        Raises:
            CodecError: The message is not what the channel carries.
            PayloadTooLargeError: It, or its headers, are over the limit.
            OutsideWorkflowError: No workflow runs here.
        """
        execution = current_execution(f"Channel({self.name!r}).publish()")
        body = self.encode(execution.codec, message, execution.payload_limit)
        encoded = encode_headers(headers, execution.trace)

        def ask(activity_id: str) -> Publish:
            return Publish(activity_id, self.name, body, execution.names.message_id(activity_id), encoded)

        return RequestCall(CallKind.PUBLISH, self.name, ask, partial(check_sent, self.name, ""))

    # -- what has come ----------------------------------------------------------------------------------

    def value_of(self, codec: Codec, envelope: Envelope) -> T:
        """Return what a message carries."""
        return self.decode(codec, bytes(envelope.body))

    def message_of(self, codec: Codec, envelope: Envelope) -> Message[T]:
        """Return a message with its surroundings."""
        return Message(
            self.value_of(codec, envelope),
            envelope.message_id,
            envelope.sender,
            datetime.fromtimestamp(envelope.at / MICROSECONDS, UTC),
            envelope.headers,
        )

    def try_mailbox(self, execution: Execution, mailbox: str) -> Message[T] | None:
        """Take a mailbox's next message if there is one now, and record it, or that there was none."""
        envelope = _envelope_or_none.decode(execution.try_receive(self.name, mailbox))
        return None if envelope is None else self.message_of(execution.codec, envelope)

    def __repr__(self) -> str:
        return f"<channel {self.name}>"


def encode_headers(headers: Mapping[str, str] | None, trace: TraceContext | None = None) -> bytes | None:
    """Encode a message's headers.

    Args:
        headers: Texts by name.
        trace: The span that sends the message; the sender's own trace headers, if there are any, come first.

    Raises:
        TypeError: A name or value is not text.
        PayloadTooLargeError: They are over `HEADERS_LIMIT`.
    """
    given = dict(headers or {})
    for name, value in cast("Mapping[object, object]", given).items():
        if not isinstance(name, str) or not isinstance(value, str):
            msg = f"headers are texts by name, and {name!r}: {value!r} is none"
            raise TypeError(msg)
    check_size(msgspec.json.encode(given), HEADERS_LIMIT, "headers of a message")
    if trace is not None and not given.keys() & set(TRACE_HEADERS):
        given |= trace.headers()
    return msgspec.json.encode(given) if given else None


def check_sent(channel: str, to: str, outcome: bytes) -> None:
    """Raise what the outcome of a send or publication means."""
    match SendOutcome(int(outcome)):
        case SendOutcome.SENT:
            return
        case SendOutcome.CLOSED:
            msg = f"instance {to!r} has ended: it takes no message on channel {channel!r}"
            raise InstanceClosedError(msg)
        case SendOutcome.NOT_FOUND:
            msg = f"no instance {to!r} to send to on channel {channel!r}"
            raise InstanceNotFoundError(msg)
        case SendOutcome.OTHER_MODE:
            raise ChannelModeError(other_mode(channel, to))


def other_mode(channel: str, to: str) -> str:
    """Return what is wrong with a send (to somebody) or a publication (to nobody in particular)."""
    if to:
        return f"channel {channel!r} is a topic: publish to it, or send to {to!r} on another channel"
    return f"channel {channel!r} is used to send to instances directly: publish on another channel"
