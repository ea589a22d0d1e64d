"""An App: a client, a worker, and their lifecycle."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from romancy.client.client import Client
from romancy.client.waiting import Waiters
from romancy.core import registry
from romancy.core.codec import DEFAULT_PAYLOAD_LIMIT, JsonCodec
from romancy.core.durations import checked_retention
from romancy.core.records import InstanceFilter
from romancy.core.retry import RetryPolicy
from romancy.errors import NoAppError, StorageError
from romancy.observers import Observers
from romancy.storage.urls import storage_at
from romancy.worker.settings import WorkerSettings
from romancy.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from romancy.client.handle import Handle
    from romancy.client.info import InstanceInfo
    from romancy.core.calls import Call
    from romancy.core.clock import Clock
    from romancy.core.codec import Codec
    from romancy.core.definitions import Workflow
    from romancy.core.hooks import Hooks
    from romancy.storage.protocol import Storage
    from romancy.workflows.channels import Channel

R = TypeVar("R")
T = TypeVar("T")
_logger = logging.getLogger("romancy")
_LONGEST_WATCH = timedelta(seconds=1)
"""After which those who wait for instances look again; where nobody waits that costs nothing."""


class App:
    """Durable workflows in this process: ``async with App("sqlite:///orders.db") as app: ...``.

    While it is open it executes the instances of its database, those of earlier processes first. Leaving the block
    stops claiming, lets activities end within the grace time, and frees what it owned.
    """

    _stand_ins: Mapping[str, Callable[..., Awaitable[object]]] | None = None  # what tests run instead of activities

    def __init__(
        self,
        url: str | Storage,
        *,
        workflows: Sequence[Workflow[..., Any]] | None = None,
        worker: bool = True,
        hot_limit: int = 10_000,
        idle_timeout: timedelta = timedelta(minutes=10),
        max_activities: int = 1_000,
        session_ttl: timedelta = timedelta(seconds=10),
        grace: timedelta = timedelta(seconds=10),
        poll_interval: timedelta | None = None,
        max_recoveries: int = 20,
        codec: Codec | None = None,
        clock: Clock | None = None,
        instance_retention: timedelta | None = None,
        archive_retention: timedelta | None = timedelta(days=30),
        message_retention: timedelta | None = timedelta(days=7),
        retry: RetryPolicy | None = None,
        on_bug: Literal["block", "fail"] = "block",
        transaction_limit: timedelta = timedelta(seconds=2),
        payload_limit: int = DEFAULT_PAYLOAD_LIMIT,
        build: str | None = None,
        migrate: bool = True,
        hooks: Sequence[Hooks] = (),
    ) -> None:
        """Describe the app; nothing is opened yet.

        Args:
            url: The database: ``sqlite:///orders.db`` (relative), ``sqlite:////var/orders.db`` (absolute),
                ``sqlite://`` (in memory), ``postgresql://user:password@host/database``; or a storage of your own.
            workflows: What to execute: None: every definition that has been imported when the app is opened.
            worker: Execute instances; False: only start, send and watch.
            hot_limit: How many waiting runs stay in memory; 0: none, every wait is resumed by replay.
            idle_timeout: How long a waiting run stays in memory.
            max_activities: How many activity bodies run at once.
            session_ttl: After how long without a sign of life another worker takes over; at least a second.
            grace: How long a shutdown lets activities end.
            poll_interval: How often the database is looked at even if nothing says that it changed; by default every
                second, and every 10 seconds where PostgreSQL's notifications come.
            max_recoveries: How often a worker may die under an instance before it is blocked.
            codec: How payloads become bytes; by default JSON by msgspec.
            clock: The time; by default the storage's: this machine's with SQLite, the server's with PostgreSQL.
            instance_retention: How long an instance that has ended is kept, with its history; then it is purged, and
                its id is free. None: for ever.
            archive_retention: How long the history of a run that `recur` has closed stays readable; None: for ever.
                The worker that has this duty for all removes what is older than its own setting says.
            message_retention: For how long a ``message_id`` is recognised: a message that repeats it later is delivered
                again. And for how long what is published to a channel waits for its first subscriber. None: for ever.
            retry: The policy of activities that have none of their own.
            on_bug: What a programming error in workflow code does: block the instance until it is mended, or
                fail it (and compensate).
            transaction_limit: How long a transactional activity may keep the database from others, before what it did
                is rolled back; at most a third of ``session_ttl``.
            payload_limit: Upper bound of an encoded value in bytes.
            build: Names the deployed code; by default a digest of the modules that define the workflows.
            migrate: Bring the schema up to date; False: only verify it.
            hooks: Who is told what happens, each in a thread of its own; see `Hooks`. The first that has a
                ``propagator`` says which trace goes on.

        Raises:
            ValueError: A duration that must be positive is not.
            TypeError: One of the hooks is none.
        """
        for name, given in (("session_ttl", session_ttl), ("transaction_limit", transaction_limit)):
            if given <= timedelta(0):
                msg = f"{name} must be positive, not {given!r}"
                raise ValueError(msg)
        self.url = url
        self._clock = clock
        self._codec = codec or JsonCodec()
        self._workflows = workflows
        self._has_worker = worker
        self._migrate = migrate
        self._observers = Observers(hooks)
        self._settings = WorkerSettings(
            hot_limit=hot_limit,
            idle_timeout=idle_timeout,
            max_activities=max_activities,
            session_ttl=session_ttl,
            grace=grace,
            poll_interval=poll_interval,
            max_recoveries=max_recoveries,
            instance_retention=checked_retention(instance_retention, "instance_retention"),
            archive_retention=checked_retention(archive_retention, "archive_retention"),
            message_retention=checked_retention(message_retention, "message_retention"),
            retry=retry or RetryPolicy(),
            is_lenient=on_bug == "fail",
            transaction_limit=transaction_limit,
            payload_limit=payload_limit,
            build=build or "",
        )
        self._client: Client | None = None
        self._worker: Worker | None = None
        self._storage: Storage | None = None
        self._watching: asyncio.Task[None] | None = None

    # -- lifecycle --------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._client is not None:
            msg = "this App is open already: make another one, or use the open one"
            raise RuntimeError(msg)
        storage = storage_at(self.url, self._clock) if isinstance(self.url, str) else self.url
        clock = self._clock or storage.clock
        await storage.open(migrate=self._migrate)
        self._observers.open()
        try:
            self._storage = storage
            waiters = Waiters(storage)
            if self._has_worker:
                self._worker = self._make_worker(storage, clock, waiters)
                await self._worker.start()
            client = Client(
                storage,
                waiters=waiters,
                codec=self._codec,
                clock=clock,
                payload_limit=self._settings.payload_limit,
                on_change=self._changed,
                observers=self._observers,
                local=self._worker,
            )
        except BaseException:
            self._worker = None
            await storage.close()
            await self._observers.close()
            raise
        self._client = client
        self._watching = asyncio.create_task(self._watch(storage, client))
        registry.app_opened(self)
        return self

    def _make_worker(self, storage: Storage, clock: Clock, listener: Waiters) -> Worker:
        definitions = registry.workflows() if self._workflows is None else list(self._workflows)
        return Worker(
            storage,
            definitions,
            settings=self._settings,
            codec=self._codec,
            clock=clock,
            listener=listener,
            observers=self._observers,
            stand_ins=self._stand_ins,
        )

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A cancellation that arrives while the app closes waits until it is closed: nothing may stay owned.
        closing = asyncio.ensure_future(self._close())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as arrived:
                cancelled = arrived
        closing.result()
        if cancelled is not None:
            raise cancelled

    async def abandon(self) -> None:
        """Leave everything as it is, as a process that dies does: for tests of what others then make of it."""
        if self._client is None:
            return
        registry.app_closed(self)
        if self._watching is not None:
            self._watching.cancel()
        if self._worker is not None:
            await self._worker.abandon()
        self._client.waiters.close()
        self._worker = self._client = self._storage = self._watching = None
        await self._observers.close()

    async def _close(self) -> None:
        if self._client is None:
            return
        registry.app_closed(self)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        try:
            if self._worker is not None:
                await self._worker.stop()
        finally:
            self._worker = None
            self._client.waiters.close()
            self._client = None
            try:
                if self._storage is not None:
                    await self._storage.close()
                    self._storage = None
            finally:
                await self._observers.close()

    async def _watch(self, storage: Storage, client: Client) -> None:
        """Look again whenever another process has written, and now and then in any case."""
        while True:
            timeout = min(self._settings.poll_interval or storage.poll_interval, _LONGEST_WATCH)
            try:
                if await storage.wait_for_change(timeout) and self._worker is not None:
                    self._worker.changed()
                await client.waiters.poll()
            except Exception as exc:  # noqa: BLE001 - whatever it is, those who wait must hear of the ends to come
                _logger.warning("watching for changes failed, trying again: %s", exc)
                await asyncio.sleep(timeout.total_seconds())
                if self._worker is not None:
                    self._worker.changed()

    def _changed(self) -> None:
        if self._worker is not None:
            self._worker.changed()

    @property
    def client(self) -> Client:
        """The client of the open app.

        Raises:
            NoAppError: The app is not open.
        """
        if self._client is None:
            msg = "the App is not open: use 'async with App(...) as app'"
            raise NoAppError(msg)
        return self._client

    @property
    def worker(self) -> Worker | None:
        """The worker of the open app; None if it has none."""
        return self._worker

    async def check(self) -> None:
        """Look whether the app can work: it is open, the database answers, and its worker holds a session.

        Raises:
            NoAppError: It is not open.
            StorageError: The database can't be reached, or the worker has no session at the moment.
        """
        await self.client.storage.list(InstanceFilter(), limit=1)
        if self._worker is not None and not self._worker.is_live:
            msg = "the worker has no session at the moment: it registers a new one"
            raise StorageError(msg)

    async def hooks_told(self) -> None:
        """Wait until all hooks have been told of what has happened until now, for five seconds at most."""
        await self._observers.told()

    # -- the client's methods ---------------------------------------------------------------------------

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
        """Start an instance of a workflow; see `Client.start`."""
        return await self.client.start(
            call,
            id=id,
            start_at=start_at,
            delay=delay,
            priority=priority,
            tags=tags,
            timeout=timeout,
            on_conflict=on_conflict,
        )

    async def run(self, call: Call[R], *, id: str | None = None, timeout: timedelta | float | None = None) -> R:
        """Start an instance and wait for its result; see `Client.run`."""
        return await self.client.run(call, id=id, timeout=timeout)

    async def get(self, id: str) -> Handle[Any]:
        """Return a handle on an instance; see `Client.get`."""
        return await self.client.get(id)

    async def send(
        self,
        channel: Channel[T],
        message: T,
        *,
        to: str,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Put a message into an instance's inbox; see `Client.send`."""
        await self.client.send(channel, message, to=to, message_id=message_id, headers=headers)

    async def send_many(
        self, channel: Channel[T], messages: Iterable[tuple[str, T]], *, message_id: str | None = None
    ) -> None:
        """Send several messages, all of them or none; see `Client.send_many`."""
        await self.client.send_many(channel, messages, message_id=message_id)

    async def publish(
        self,
        channel: Channel[T],
        message: T,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish a message to a channel's subscribers; see `Client.publish`."""
        await self.client.publish(channel, message, message_id=message_id, headers=headers)

    async def complete_activity(self, token: str, result: object = None) -> None:
        """Finish an activity that was left to be finished from outside; see `Client.complete_activity`."""
        await self.client.complete_activity(token, result)

    async def fail_activity(self, token: str, error: BaseException) -> None:
        """Fail an attempt at an activity that was left to be finished; see `Client.fail_activity`."""
        await self.client.fail_activity(token, error)

    async def cancel(self, id: str, reason: str = "", *, grace: timedelta | float | None = None) -> None:
        """Ask an instance to cancel; see `Handle.cancel`."""
        await self.client.cancel(id, reason, grace=grace)

    async def pause(self, id: str) -> None:
        """Pause an instance; see `Handle.pause`."""
        await self.client.pause(id)

    async def unpause(self, id: str) -> None:
        """Let a paused instance go on; see `Handle.unpause`."""
        await self.client.unpause(id)

    async def terminate(self, id: str, reason: str = "", *, recursive: bool = True) -> None:
        """End an instance now; see `Handle.terminate`."""
        await self.client.terminate(id, reason, recursive=recursive)

    async def retry(self, id: str) -> None:
        """Let an instance go on that is blocked or has failed; see `Handle.retry`."""
        await self.client.retry(id)

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
        """Start an instance that does again what another one has done; see `Client.rerun`."""
        return await self.client.rerun(
            id, from_activity=from_activity, input=input, new_id=new_id, tags=tags, timeout=timeout
        )

    async def purge(self, id: str, *, recursive: bool = True) -> int:
        """Delete an instance that has ended; see `Client.purge`."""
        return await self.client.purge(id, recursive=recursive)

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
        """List instances; see `Client.list`."""
        return await self.client.list(
            workflow=workflow,
            status=status,
            id_prefix=id_prefix,
            tags=tags,
            custom_status=custom_status,
            after=after,
            limit=limit,
        )
