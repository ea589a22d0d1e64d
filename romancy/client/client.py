"""What a process can do with instances without executing them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import msgspec

from romancy.activities.transaction import current_scope
from romancy.client.handle import Handle, InstanceInfo, info_of, key_of
from romancy.client.options import check_priority, check_start_tags, due_at
from romancy.core import registry
from romancy.core.calls import Call, WorkflowCall, current_run
from romancy.core.codec import Subject, check_size, encode_value
from romancy.core.durations import microseconds_of
from romancy.core.entropy import random_bytes
from romancy.core.events import Cancellation, OutsideAnswer
from romancy.core.failures import Failure, encode_failure, failure_of
from romancy.core.instance_ids import check_instance_id
from romancy.core.records import InboxKind, InstanceFilter, NewInstance, Post, PostResult, Publication, Status
from romancy.core.retry import is_never_retried
from romancy.core.shown import encode_custom_status
from romancy.core.tokens import Token, decode_token
from romancy.errors import (
    ChannelModeError,
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
    NotInWorkflowError,
)
from romancy.workflows.channels import encode_headers, other_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from romancy.activities.transaction import Scope
    from romancy.client.waiting import Waiters
    from romancy.core.clock import Clock
    from romancy.core.codec import Codec
    from romancy.core.records import Creation, Instance
    from romancy.storage.protocol import Storage
    from romancy.workflows.channels import Channel

R = TypeVar("R")
T = TypeVar("T")


class LocalWorker(Protocol):
    """The worker of this process, as far as starting an instance concerns it."""

    def begin_start(self, execution_id: int, workflow: str, version: str) -> int | None:
        """Return the session that is to own a new instance from its creation on; None: it is to be claimed."""
        ...

    def end_start(self, execution_id: int, created: Instance | None, *, is_lost: bool = False) -> None:
        """Take in an instance that was created as owned; or note that it may have been (``is_lost``)."""
        ...

    def ended(self, key: int) -> None:
        """Let go of an instance that a client has ended."""
        ...

    def holds(self, key: int) -> bool:
        """Tell whether an instance is in the worker's memory, so that its end will be told."""
        ...

    def will_try(self, instance: Instance) -> bool:
        """Tell whether the worker is about to take a blocked instance."""
        ...


class Client:
    """Start instances, send to them, watch them. Talks to storage alone.

    Every method raises `StorageError` when the database can't be reached.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        waiters: Waiters,
        codec: Codec,
        clock: Clock,
        payload_limit: int,
        on_change: Callable[[], None],
        local: LocalWorker | None = None,
    ) -> None:
        """Prepare.

        Args:
            storage: The open database.
            waiters: Wakes those who wait for results.
            codec: Encodes inputs and messages.
            clock: Says when a new instance is due.
            payload_limit: Upper bound of an encoded value in bytes.
            on_change: Called after a write that may give a worker of this process something to do.
            local: The worker of this process, which owns what is started here as far as it serves it.
        """
        self._storage = storage
        self.waiters = waiters
        self._codec = codec
        self._clock = clock
        self._payload_limit = payload_limit
        self._on_change = on_change
        self._local = local

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

    def is_told_of(self, key: int) -> bool:
        """Tell whether this process will note the end of an instance by itself."""
        return self._local is not None and self._local.holds(key)

    def is_about_to_unblock(self, instance: Instance) -> bool:
        """Tell whether this process is about to try a blocked instance with other code than that which blocked it."""
        return self._local is not None and self._local.will_try(instance)

    async def start(
        self,
        call: Call[R],
        *,
        id: str | None = None,
        start_at: datetime | None = None,
        delay: timedelta | float | None = None,
        priority: int = 0,
        tags: Mapping[str, str] | None = None,
        on_conflict: Literal["raise", "attach", "restart"] = "raise",
        timeout: timedelta | float | None = None,
    ) -> Handle[R]:
        """Start an instance of a workflow.

        Until ``start_at``, or until ``delay`` has passed, the instance is pending: it can be listed and takes messages,
        which wait; a cancel reaches it at once, and it then begins in order to be cancelled.

        Args:
            call: The workflow and its arguments: ``fulfil(order)``.
            id: The instance's id; by default a random one.
            start_at: When it is to begin, an aware datetime; at once if that has passed.
            delay: After what time it is to begin: a timedelta, or seconds; instead of ``start_at``.
            priority: From -2 to 2: of the instances that wait for a worker, a higher one comes first, also each time
                that it goes on after it has left memory.
            tags: What `list` finds it by: printable strings by name, at most 32, with up to 64 characters in a name and
                256 in a value. The workflow can change them by `set_tags`.
            on_conflict: What if the id is taken: ``"raise"``, ``"attach"`` (return a handle on the existing
                instance, whatever its workflow), or ``"restart"`` (replace one that has ended).
            timeout: How long the instance may take from now on, the runs that `recur` opens included: a timedelta, or
                seconds; None: as long as it takes. Then `asyncio.CancelledError` is raised in its code, once, what has
                to be undone is undone, and it ends as timed out, whatever the code makes of that.

        Returns:
            A handle; the instance is in the database.

        Raises:
            InstanceAlreadyExistsError: The id is taken.
            InstanceRunningError: ``"restart"``, and the instance has not ended.
            CodecError: An argument does not fit its annotation; the message names the field. Nothing is stored.
            PayloadTooLargeError: The arguments are over the limit, or the tags.
            ValueError: The id, ``start_at``, ``delay``, ``timeout`` or ``priority`` can't be used; the message says
                why.
            TypeError: Not the call of a workflow.
        """
        if not isinstance(call, WorkflowCall):
            msg = f"start({call!r}) needs the call of a workflow, such as start(fulfil(order))"
            raise TypeError(msg)
        chosen = random_bytes(16).hex() if id is None else id
        check_instance_id(chosen)
        now = self._clock.now()
        due = due_at(start_at, delay, now)
        priority = check_priority(priority)
        checked_tags = check_start_tags(tags, "start(tags=...)")
        definition = call.definition
        subject = definition.arguments_subject
        payload = definition.signature.bind_encode(self._codec, call.args, call.kwargs, subject)
        check_size(payload, self._payload_limit, subject)
        limit = None if timeout is None else microseconds_of(timeout, "timeout")
        if limit == 0:
            msg = f"start(timeout={timeout!r}): a time limit has to be positive"
            raise ValueError(msg)
        call.close()
        new = NewInstance(
            id=chosen,
            execution_id=int.from_bytes(random_bytes(8), "big") >> 2,
            workflow=definition.name,
            version=definition.version,
            input=payload,
            wake_at=due,
            deadline=None if limit is None else now + limit,
            priority=priority,
            tags=checked_tags,
        )
        created = await self._create(new, on_conflict, is_delayed=due > now)
        # What may still be rolled back has no key: another instance would get it.
        key = created.instance.key if created.is_new and not self.is_in_transaction else None
        return Handle(self, chosen, self.decoder(created.instance.workflow, created.instance.version), key=key)

    async def _create(
        self, new: NewInstance, on_conflict: Literal["raise", "attach", "restart"], *, is_delayed: bool
    ) -> Creation:
        """Create an instance, owned by this process's worker from the beginning if it serves the workflow."""
        if (scope := self._joined()) is not None:  # nothing of it may run before the transaction has committed
            created = await self.storage.create(new, on_conflict)
            scope.after_commit.append(self._on_change)
            return created
        local = None if is_delayed else self._local
        session = None if local is None else local.begin_start(new.execution_id, new.workflow, new.version)
        if local is None or session is None:
            created = await self.storage.create(new, on_conflict)
            self._on_change()
            return created
        try:
            created = await self.storage.create(msgspec.structs.replace(new, session=session), on_conflict)
        except (InstanceAlreadyExistsError, InstanceRunningError):
            local.end_start(new.execution_id, None)
            raise
        except BaseException:
            local.end_start(new.execution_id, None, is_lost=True)
            raise
        local.end_start(new.execution_id, created.instance if created.is_new else None)
        return created

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

    async def run(self, call: Call[R], *, id: str | None = None, timeout: timedelta | float | None = None) -> R:
        """Start an instance and wait for its result; see `start` and `Handle.result`.

        With an id that is taken, the existing instance's result is waited for.
        """
        handle = await self.start(call, id=id, on_conflict="attach")
        return await handle.result(timeout=timeout)

    async def get(self, id: str) -> Handle[Any]:
        """Return a handle on an instance; its result is typed as its workflow says, if that is imported here.

        Raises:
            InstanceNotFoundError: No instance has the id.
        """
        row = await self.storage.get(id)
        if row is None:
            msg = f"no instance has the id {id!r}"
            raise InstanceNotFoundError(msg)
        return Handle(self, id, self.decoder(row.workflow, row.version))

    def decoder(self, workflow: str, version: str) -> Callable[[bytes], object] | None:
        """Return what types the result of a workflow; None: it is not declared in this process."""
        definition = registry.find_workflow(workflow, version)
        if definition is None:
            return None
        subject = definition.result_subject
        return partial(definition.signature.decode_result, self._codec, what=subject)

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
        await self._post([_post_of(channel.name, body, to, message_id, encode_headers(headers))])

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
        posts = [
            _post_of(
                channel.name,
                channel.encode(self._codec, message, self._payload_limit),
                to,
                None if message_id is None else f"{message_id}/{number}",
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
        publication = Publication(channel.name, body, message_id or random_bytes(16).hex(), encode_headers(headers))
        if PostResult.OTHER_MODE in await self.storage.publish([publication]):
            raise ChannelModeError(other_mode(channel.name, ""))
        self._once_committed(self._on_change)

    async def cancel(self, id: str, reason: str = "", *, grace: timedelta | float | None = None) -> None:
        """Ask an instance to cancel; see `Handle.cancel`."""
        wish: str | Cancellation = reason
        if grace is not None:
            wish = Cancellation(reason, microseconds_of(grace, "grace"))
        await self._post([Post(id, InboxKind.CANCEL, None, msgspec.json.encode(wish), random_bytes(16).hex())])

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
                    continue
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
        self._once_committed(self._on_change)

    async def pause(self, id: str) -> None:
        """Pause an instance; see `Handle.pause`."""
        await self.storage.pause(id)
        self._once_committed(self._on_change)

    async def unpause(self, id: str) -> None:
        """Let a paused instance go on; see `Handle.unpause`."""
        await self.storage.unpause(id)
        self._once_committed(self._on_change)

    async def terminate(self, id: str, reason: str = "", *, recursive: bool = True) -> None:
        """End an instance now; see `Handle.terminate`."""
        failure = Failure("romancy.errors:WorkflowTerminatedError", reason or "terminated by a client")
        payload = encode_failure(failure)
        ended = await self.storage.terminate(id, payload, is_recursive=recursive)
        self._once_committed(partial(self._terminated, ended))

    def _terminated(self, keys: Sequence[int]) -> None:
        for key in keys:
            if self._local is not None:
                self._local.ended(key)
            self.waiters.look_again(key)
        self._on_change()

    async def purge(self, id: str) -> None:
        """Delete an instance that has ended, with its history, archived runs, tags and inbox.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceRunningError: It has not ended.
        """
        row = await self.storage.get(id)
        await self.storage.purge(id)
        if row is not None:
            self._once_committed(partial(self.waiters.forget, row.key))

    async def list(
        self,
        *,
        workflow: str | None = None,
        status: str | None = None,
        id_prefix: str | None = None,
        tags: Mapping[str, str] | None = None,
        custom_status: object = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[InstanceInfo]:
        """List instances in the order of their start; filters that are given must all fit.

        Args:
            workflow: Only those of this workflow.
            status: Only those with this status, such as ``"running"``.
            id_prefix: Only those whose id begins so.
            tags: Only those with all of these tags.
            custom_status: Only those whose custom status is this value now; None: any.
            after: Only those after the instance with this `InstanceInfo.cursor`: the next page.
            limit: At most so many, from 1.

        Raises:
            ValueError: There is no such status, or no listing has given this cursor.
            CodecError: The tags are no printable strings, or the custom status can't be encoded.
            PayloadTooLargeError: No tag or custom status can be as large.
        """
        statuses = None
        if status is not None:
            if status.upper() not in Status.__members__:
                msg = f"{status!r} is no status: use one of {', '.join(s.name.lower() for s in Status)}"
                raise ValueError(msg)
            statuses = frozenset({Status[status.upper()]})
        shown = None
        if custom_status is not None:
            shown = encode_custom_status(self._codec, custom_status, "list(custom_status=...)")
        where = InstanceFilter(workflow, statuses, id_prefix, check_start_tags(tags, "list(tags=...)"), shown)
        rows = await self.storage.list(where, after=key_of(after), limit=limit)
        return [info_of(cast("Any", row)) for row in rows]


def _post_of(channel: str, body: bytes, to: str, message_id: str | None, headers: bytes | None = None) -> Post:
    return Post(to, InboxKind.MESSAGE, channel, body, message_id or random_bytes(16).hex(), headers=headers)
