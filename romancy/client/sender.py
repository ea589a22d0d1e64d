"""What a client sends: messages, cancels, and the outcomes of activities that are finished from outside."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec

from romancy.activities.transaction import current_scope
from romancy.core import registry
from romancy.core.calls import current_run
from romancy.core.codec import Subject, check_size, encode_value
from romancy.core.durations import microseconds_of
from romancy.core.entropy import random_bytes
from romancy.core.events import Cancellation, OutsideAnswer
from romancy.core.failures import encode_failure, failure_of
from romancy.core.hooks import MessageEvent
from romancy.core.records import InboxKind, Post, PostResult, Publication
from romancy.core.retry import is_never_retried
from romancy.core.tokens import Token, decode_token
from romancy.core.tracing import context_in, given_parent
from romancy.errors import ChannelModeError, InstanceClosedError, InstanceNotFoundError, NotInWorkflowError
from romancy.workflows.channels import encode_headers, other_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from datetime import timedelta

    from romancy.activities.transaction import Scope
    from romancy.core.clock import Clock
    from romancy.core.codec import Codec
    from romancy.observers import Observers
    from romancy.storage.protocol import Storage
    from romancy.workflows.channels import Channel

T = TypeVar("T")


class Sender:
    """Put things into inboxes and topics. What it writes in an activity's transaction is told of when that commits."""

    def __init__(
        self,
        storage: Storage,
        *,
        codec: Codec,
        clock: Clock,
        payload_limit: int,
        on_change: Callable[[], None],
        observers: Observers,
    ) -> None:
        self._storage = storage
        self._codec = codec
        self._clock = clock
        self._payload_limit = payload_limit
        self._on_change = on_change
        self._observers = observers

    @property
    def storage(self) -> Storage:
        """The open database.

        Raises:
            NotInWorkflowError: Workflow code asks.
        """
        if current_run() is not None:
            msg = "an App, Client or Handle was used in a workflow: put it in an activity (or send by channel.send())"
            raise NotInWorkflowError(msg)
        return self._storage

    @contextmanager
    def in_trace_of(self, headers: Mapping[str, str], *, is_preferred: bool = False) -> Generator[None]:
        """Have what is started and sent in the block go on in the trace of a request or event, if the App has traces.

        Args:
            headers: Those of W3C Trace Context are looked for, under names in lower case.
            is_preferred: Go on there even if a span is current here; else that span comes first.
        """
        parent = context_in(headers)
        if parent is None or (not is_preferred and self._observers.current() is not None):
            yield
            return
        token = given_parent.set(parent)
        try:
            yield
        finally:
            given_parent.reset(token)

    def _joined(self) -> Scope | None:
        """Return the scope of the activity's transaction that calls on this database join; None if there is none."""
        scope = current_scope.get(None)
        return scope if scope is not None and scope.is_asked and scope.is_on(self._storage) else None

    @property
    def is_in_transaction(self) -> bool:
        """Whether what the calling task asks belongs to the transaction of an activity."""
        return self._joined() is not None

    def _once_committed(self, tell: Callable[[], None]) -> None:
        """Tell of a write: at once, or when the transaction that it is part of has committed."""
        scope = self._joined()
        if scope is None:
            tell()
        else:
            scope.after_commit.append(tell)

    async def send(
        self,
        channel: Channel[T],
        message: T,
        *,
        to: str,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put a message into an instance's inbox; it is durable when this returns.

        Args:
            channel: The channel on which the workflow receives.
            message: What it carries.
            to: The instance's id.
            message_id: Makes the call idempotent: a second message with this id to the same instance is dropped.
            headers: Texts to send along.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
            ChannelModeError: The channel is a topic.
            CodecError: The message is not what the channel carries.
            PayloadTooLargeError: It, or its headers, are over the limit.
        """
        body = channel.encode(self._codec, message, self._payload_limit)
        encoded = encode_headers(headers, self._observers.current())
        await self._post([_post_of(channel.name, body, to, message_id, encoded)])

    async def send_many(
        self, channel: Channel[T], messages: Iterable[tuple[str, T]], *, message_id: str | None = None
    ) -> None:
        """Send several messages in one transaction: all of them or none.

        Args:
            channel: The channel on which the workflows receive.
            messages: The id of an instance and what is sent to it, in the order of sending; an id may come again.
            message_id: Makes the call idempotent: the n-th message gets the id ``<message_id>/<n>``.

        Raises:
            InstanceNotFoundError: No instance has one of the ids; nothing is sent.
            InstanceClosedError: One has ended; nothing is sent.
            ChannelModeError: The channel is a topic.
            CodecError: A message is not what the channel carries.
            PayloadTooLargeError: One is over the limit.
        """
        encoded = encode_headers(None, self._observers.current())
        posts = [
            _post_of(
                channel.name,
                channel.encode(self._codec, message, self._payload_limit),
                to,
                None if message_id is None else f"{message_id}/{number}",
                encoded,
            )
            for number, (to, message) in enumerate(messages)
        ]
        if posts:
            await self._post(posts)

    async def publish(
        self,
        channel: Channel[T],
        message: T,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish a message to a channel's subscribers; it is durable, and in its place, when this returns.

        Args:
            channel: The channel to which workflows subscribe.
            message: What it carries.
            message_id: Makes the call idempotent: a second message with this id on the channel is dropped.
            headers: Texts to send along.

        Raises:
            ChannelModeError: The channel is used to send to instances directly.
            CodecError: The message is not what the channel carries.
            PayloadTooLargeError: It, or its headers, are over the limit.
        """
        body = channel.encode(self._codec, message, self._payload_limit)
        encoded = encode_headers(headers, self._observers.current())
        publication = Publication(channel.name, body, message_id or random_bytes(16).hex(), encoded)
        results = await self.storage.publish([publication])
        if PostResult.OTHER_MODE in results:
            raise ChannelModeError(other_mode(channel.name, ""))
        if PostResult.POSTED in results:
            self._tell(channel.name, publication.message_id, None, encoded)
        self._once_committed(self._on_change)

    def _tell(self, channel: str, message_id: str, to: str | None, headers: bytes | None) -> None:
        """Tell hooks of a message that was accepted."""
        if not self._observers.wants("message_sent"):
            return
        event = MessageEvent(
            stamp=self._clock.now(),
            channel=channel,
            message_id=message_id,
            to=to,
            headers={} if headers is None else msgspec.json.decode(headers, type=dict[str, str]),
        )
        self._once_committed(partial(self._observers.tell, "message_sent", None, event))

    async def cancel(self, id: str, reason: str = "", *, grace: timedelta | float | None = None) -> None:
        """Ask an instance to cancel; see `Handle.cancel`."""
        await self._post([Post(id, InboxKind.CANCEL, None, _wish(reason, grace), random_bytes(16).hex())])

    async def cancel_many(
        self, ids: Sequence[str], reason: str = "", *, grace: timedelta | float | None = None
    ) -> Sequence[tuple[str, str]]:
        """Ask several instances to cancel, in one transaction; see `Handle.cancel`.

        Returns:
            The ids of those that can't be asked, each with the reason why: they have ended, or are not there.
        """
        wish = _wish(reason, grace)
        posts = {id: Post(id, InboxKind.CANCEL, None, wish, random_bytes(16).hex()) for id in ids}
        refused: list[tuple[str, str]] = []
        while posts:
            asked = list(posts.values())
            results = await self.storage.post(asked)
            closed = [post.to for post, result in zip(asked, results, strict=True) if result not in _TAKEN]
            if not closed:
                self._once_committed(self._on_change)
                break
            # They are all written or none: what has ended meanwhile is left out, and the others asked again.
            refused += [(id, f"instance {id!r} has ended, or there is none") for id in closed]
            for id in closed:
                del posts[id]
        return refused

    async def complete_activity(self, token: str, result: object = None) -> None:
        """Finish an activity that was left to be finished from outside; it is durable when this returns.

        The first answer to an attempt holds, be it a result or a failure: another one is accepted and does nothing.
        So does one that comes when the attempt is over: timed out, or withdrawn by its workflow.

        Args:
            token: What `complete_later` has returned.
            result: The activity's result.

        Raises:
            ValueError: This is no token.
            InstanceNotFoundError: The instance was purged, or started anew.
            InstanceClosedError: It has ended.
            CodecError: The result can't be encoded, or does not fit the activity's return annotation, as far as the
                activity is imported here. (Elsewhere it is found when it is delivered, and blocks the instance.)
            PayloadTooLargeError: It is over the limit.
        """
        meant = decode_token(token)
        name = meant.activity_id.partition(":")[2]
        definition = registry.find_activity(name)
        subject = Subject("result", "activity", name)
        if definition is None:
            payload = encode_value(self._codec, result, subject)
        else:
            payload, _ = definition.signature.encode_result(self._codec, result, subject)
        check_size(payload, self._payload_limit, subject)
        answer = OutsideAnswer(meant.run, meant.activity_id, meant.attempt, result=msgspec.Raw(payload))
        await self._answer(meant, answer)

    async def fail_activity(self, token: str, error: BaseException) -> None:
        """Fail the attempt at an activity that was left to be finished from outside; see `complete_activity`.

        Whether there is another attempt is decided by the activity's retry policy, as if its body had raised the
        error: `NonRetryableError` ends it, `RetryAfter` says when. The next attempt runs the body again, with another
        token.

        Raises:
            ValueError: This is no token.
            InstanceNotFoundError: The instance was purged, or started anew.
            InstanceClosedError: It has ended.
        """
        meant = decode_token(token)
        failure = msgspec.Raw(encode_failure(failure_of(error)))
        is_final = is_never_retried(error)
        answer = OutsideAnswer(meant.run, meant.activity_id, meant.attempt, failure=failure, is_final=is_final)
        await self._answer(meant, answer)

    async def _answer(self, meant: Token, answer: OutsideAnswer) -> None:
        post = Post(
            meant.instance_id,
            InboxKind.ACTIVITY,
            None,
            msgspec.json.encode(answer),
            f"answer/{meant.run}/{meant.activity_id}/{meant.attempt}",
            execution_id=meant.execution_id,
        )
        await self._post([post])

    async def _post(self, posts: list[Post]) -> None:
        results = await self.storage.post(posts)
        for post, result in zip(posts, results, strict=True):
            match result:
                case PostResult.POSTED | PostResult.DUPLICATE:
                    pass
                case PostResult.CLOSED:
                    msg = f"instance {post.to!r} has ended: it takes nothing any more"
                    raise InstanceClosedError(msg)
                case PostResult.NOT_FOUND:
                    msg = f"no instance has the id {post.to!r}"
                    if post.execution_id is not None:
                        msg += " and the start that is meant: it was purged, or started anew"
                    raise InstanceNotFoundError(msg)
                case PostResult.OTHER_MODE:
                    raise ChannelModeError(other_mode(post.channel or "", post.to))
            if result is PostResult.POSTED and post.channel is not None:
                self._tell(post.channel, post.message_id, post.to, post.headers)
        self._once_committed(self._on_change)


_TAKEN = frozenset({PostResult.POSTED, PostResult.DUPLICATE})


def _wish(reason: str, grace: timedelta | float | None) -> bytes:
    wish: str | Cancellation = reason
    if grace is not None:
        wish = Cancellation(reason, microseconds_of(grace, "grace"))
    return msgspec.json.encode(wish)


def _post_of(channel: str, body: bytes, to: str, message_id: str | None, headers: bytes | None = None) -> Post:
    return Post(to, InboxKind.MESSAGE, channel, body, message_id or random_bytes(16).hex(), headers=headers)
