"""What a process can do with instances without executing them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import msgspec

from romancy.client.branching import Brancher
from romancy.client.bulk import Matching
from romancy.client.handle import Handle
from romancy.client.info import InstanceInfo, check_limit, info_of, key_of
from romancy.client.options import check_priority, check_start_tags, deadline_after, due_at
from romancy.core import registry
from romancy.core.calls import Call, WorkflowCall
from romancy.core.codec import check_size
from romancy.core.entropy import random_bytes
from romancy.core.failures import Failure, encode_failure
from romancy.core.instance_ids import check_instance_id
from romancy.core.records import InstanceFilter, NewInstance, Status
from romancy.core.shown import encode_custom_status
from romancy.errors import (
    InstanceAlreadyExistsError,
    InstanceRunningError,
)
from romancy.observers import ends_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime, timedelta

    from romancy.client.waiting import Waiters
    from romancy.core.clock import Clock
    from romancy.core.codec import Codec
    from romancy.core.records import Creation, Instance
    from romancy.observers import Observers
    from romancy.storage.protocol import Storage

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


class Client(Brancher):
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
        observers: Observers,
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
            observers: Tells hooks of what is sent and ended, and says which trace goes on.
            local: The worker of this process, which owns what is started here as far as it serves it.
        """
        super().__init__(
            storage, codec=codec, clock=clock, payload_limit=payload_limit, on_change=on_change, observers=observers
        )
        self.waiters = waiters
        self._local = local

    def work_with(self, local: LocalWorker | None) -> None:
        """Take another worker for that of this process."""
        self._local = local

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
            timeout: How long the instance may take from now on, or from when it is to begin if that is later, the runs
                that `recur` opens included: a timedelta, or seconds; None: as long as it takes. Then
                `asyncio.CancelledError` is raised in its code, once, what has to be undone is undone, and it ends as
                timed out, whatever the code makes of that.

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
        deadline = deadline_after(timeout, due)
        priority = check_priority(priority)
        checked_tags = check_start_tags(tags, "start(tags=...)")
        definition = call.definition
        subject = definition.arguments_subject
        payload = definition.signature.bind_encode(self._codec, call.args, call.kwargs, subject)
        check_size(payload, self._payload_limit, subject)
        call.close()
        execution_id = int.from_bytes(random_bytes(8), "big") >> 2
        new = NewInstance(
            id=chosen,
            execution_id=execution_id,
            workflow=definition.name,
            version=definition.version,
            input=payload,
            wake_at=due,
            deadline=deadline,
            priority=priority,
            tags=checked_tags,
            trace_context=self._observers.begin(execution_id),
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
        row = await self._row(id)
        return Handle(self, id, self.decoder(row.workflow, row.version))

    def decoder(self, workflow: str, version: str) -> Callable[[bytes], object] | None:
        """Return what types the result of a workflow; None: it is not declared in this process."""
        definition = registry.find_workflow(workflow, version)
        if definition is None:
            return None
        subject = definition.result_subject
        return partial(definition.signature.decode_result, self._codec, what=subject)

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
        if self._observers.wants("workflow_terminated"):
            for end in await ends_of(self.storage, ended):
                self._once_committed(partial(self._observers.tell, "workflow_terminated", *end))

    def _terminated(self, keys: Sequence[int]) -> None:
        for key in keys:
            if self._local is not None:
                self._local.ended(key)
            self.waiters.look_again(key)
        self._on_change()

    async def rerun(
        self,
        id: str,
        *,
        from_activity: str | None = None,
        input: Call[Any] | Mapping[str, object] | None = None,
        new_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        timeout: timedelta | float | None = None,
    ) -> Handle[Any]:
        """Start an instance that does again what another one has done: all of it, or what came from an activity on.

        The other is left as it is, whether it has ended or goes on. Started from an activity, the new instance has the
        other's history up to what it was told first of that activity: what is recorded before is neither run nor sent
        nor started again. What had been asked for then and had no outcome yet is asked for now: activities that
        ran beside it run again, with idempotency keys of the new instance; messages are sent anew. Messages that the
        other has received later are not received again. Its children that were under way are the new one's too: their
        ends reach both.

        Args:
            id: The instance whose latest run is taken.
            from_activity: The id of an activity, a child, a timer, a receive or a send of that run, such as
                ``"3:charge"``, as its history names it; None: from the beginning. A timer that is over fires at once.
            input: What that activity or child is to get instead of its arguments, or with no ``from_activity`` the
                workflow: a call of it, ``charge(order)``, or its arguments by name, as plain JSON types. None: what it
                got.
            new_id: The new instance's id; by default a random one.
            tags: The new instance's tags; None: those that the other has now.
            timeout: The new instance's time limit, from now on; see `start`.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceAlreadyExistsError: The new id is taken.
            InstanceRunningError: It has begun another run just now.
            ValueError: Nothing is recorded under ``from_activity``, or the run can't go on from there: it was being
                cancelled, or has undone since what it did before. The message says which ids can be used.
            TypeError: The input is no call of what is recorded there.
            CodecError: It does not fit the annotations.
            PayloadTooLargeError: It is over the limit.
        """
        created = await self._rerun(
            id, from_activity=from_activity, input=input, new_id=new_id, tags=tags, timeout=timeout
        )
        return Handle(self, created.id, self.decoder(created.workflow, created.version))

    async def purge(self, id: str, *, recursive: bool = True) -> int:
        """Delete an instance that has ended, with its history, archived runs, tags and inbox.

        Args:
            id: The instance's id.
            recursive: Also delete, in the same transaction, what it has started and not abandoned, and what those have.

        Returns:
            How many instances were deleted.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceRunningError: It, or one of the others, has not ended; nothing is deleted.
        """
        keys = await self.storage.purge(id, is_recursive=recursive)
        for key in keys:
            self._once_committed(partial(self.waiters.forget, key))
        return max(len(keys), 1)

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
            ValueError: There is no such status, no listing has given this cursor, or the limit is less than 1.
            CodecError: The tags are no printable strings, or the custom status can't be encoded.
            PayloadTooLargeError: No tag or custom status can be as large.
        """
        check_limit(limit)
        where = self._filter(workflow, status, id_prefix, tags, custom_status)
        rows = await self.storage.list(where, after=key_of(after), limit=limit)
        return [info_of(cast("Any", row)) for row in rows]

    def matching(
        self,
        *,
        workflow: str | None = None,
        status: str | None = None,
        id_prefix: str | None = None,
        tags: Mapping[str, str] | None = None,
        custom_status: object = None,
        after: str | None = None,
    ) -> Matching:
        """Return the instances that a filter admits, to be counted, or acted on all together; see `list`.

        Raises:
            ValueError: There is no such status, or no listing has given this cursor.
            CodecError: The tags are no printable strings, or the custom status can't be encoded.
            PayloadTooLargeError: No tag or custom status can be as large.
        """
        return Matching(self, self._filter(workflow, status, id_prefix, tags, custom_status), key_of(after))

    def _filter(
        self,
        workflow: str | None,
        status: str | None,
        id_prefix: str | None,
        tags: Mapping[str, str] | None,
        custom_status: object,
    ) -> InstanceFilter:
        statuses = None
        if status is not None:
            if status.upper() not in Status.__members__:
                msg = f"{status!r} is no status: use one of {', '.join(s.name.lower() for s in Status)}"
                raise ValueError(msg)
            statuses = frozenset({Status[status.upper()]})
        shown = None
        if custom_status is not None:
            shown = encode_custom_status(self._codec, custom_status, "list(custom_status=...)")
        return InstanceFilter(workflow, statuses, id_prefix, check_start_tags(tags, "list(tags=...)"), shown)
