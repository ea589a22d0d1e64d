"""Receiving what is published to a channel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Generic, Self, TypeVar

import msgspec

from romancy.core.calls import Call, CallKind, ReceiveCall, RequestCall
from romancy.core.durations import seconds_of
from romancy.core.requests import ChannelMode, Subscribe
from romancy.errors import ChannelModeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from types import TracebackType

    from romancy.core.events import Envelope
    from romancy.replay.execution import Execution
    from romancy.workflows.channels import Channel, Message

R = TypeVar("R")
T = TypeVar("T")


class Subscription(Generic[T]):
    """What a channel's `subscribe` gives: an async context manager that opens it, and an async iterator of messages.

    It is open from the commit of the turn that enters the block to that of the turn that leaves it. What a competing
    subscription was handed and has not read goes back to its place in the topic then, for others. A run that recurs
    inside of the block leaves it open: the next run's `subscribe` to the channel takes it over, with what is unread.
    """

    def __init__(self, execution: Execution, channel: Channel[T], mode: ChannelMode) -> None:
        self._run = execution
        self._channel = channel
        self._mode = mode
        self._was_entered = False
        self._mailbox: str | None = None

    async def __aenter__(self) -> Self:
        if self._was_entered:
            msg = f"this subscription to channel {self._channel.name!r} was entered before: subscribe again"
            raise RuntimeError(msg)
        self._was_entered = True
        call: RequestCall[str] = RequestCall(CallKind.SUBSCRIBE, self._channel.name, self._ask, self._open)
        self._mailbox = await call
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._mailbox is not None:
            self._run.operations.unsubscribe(self._mailbox)

    def _ask(self, activity_id: str) -> Subscribe:
        return Subscribe(activity_id, self._channel.name, self._mode)

    def _open(self, outcome: bytes) -> str:
        answer = msgspec.json.decode(outcome, type=str | int)
        if isinstance(answer, int):
            used = ChannelMode(answer).name.lower()
            msg = (
                f"channel {self._channel.name!r} is {used} and can't be subscribed to as {self._mode.name.lower()}: "
                "a channel has one mode"
            )
            raise ChannelModeError(msg)
        self._run.operations.subscriptions[answer] = self._channel.name
        return answer

    def receive(self, *, timeout: timedelta | float | None = None) -> Call[T]:
        """Wait for the next message; a cancelled receive loses nothing.

        Args:
            timeout: How long to wait: a timedelta, or seconds; None: for ever. `TimeoutError` is raised then.

        Raises:
            RuntimeError: The subscription is not open.
        """
        return self._receive(partial(self._channel.value_of, self._run.codec), timeout)

    def receive_message(self, *, timeout: timedelta | float | None = None) -> Call[Message[T]]:
        """Wait for the next message as `receive` does, and return it with its id, sender, time and headers."""
        return self._receive(partial(self._channel.message_of, self._run.codec), timeout)

    def try_receive(self, default: T | None = None) -> T | None:
        """Return the next message if one has reached the instance already, else ``default``; see `Channel.try_receive`.

        A competing subscription sees only what it was handed for a receive that was withdrawn.
        """
        found = self.try_receive_message()
        return default if found is None else found.value

    def try_receive_message(self) -> Message[T] | None:
        """Return the next message, with its surroundings, if one has reached the instance already."""
        return self._channel.try_mailbox(self._run, self._opened())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self.receive()

    def _receive(self, read: Callable[[Envelope], R], timeout: timedelta | float | None) -> Call[R]:
        return ReceiveCall(
            self._channel.name,
            read,
            seconds_of(timeout),
            mailbox=self._opened(),
            is_competing=self._mode is ChannelMode.COMPETING,
        )

    def _opened(self) -> str:
        if self._mailbox is None or self._mailbox not in self._run.operations.subscriptions:
            msg = (
                f"the subscription to channel {self._channel.name!r} is not open: use it inside of "
                "`async with channel.subscribe() as subscription`"
            )
            raise RuntimeError(msg)
        return self._mailbox

    def __repr__(self) -> str:
        return f"<{self._mode.name.lower()} subscription to {self._channel.name}>"
