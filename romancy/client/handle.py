"""A handle on one instance."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from romancy.client.info import (
    ChildInfo,
    HistoryEvent,
    InstanceInfo,
    RunInfo,
    SavedHistory,
    check_limit,
    info_of,
    instant,
    saved_history,
)
from romancy.client.outcomes import error_of
from romancy.client.timeline import Happening, timeline_of
from romancy.client.waiting import Ended
from romancy.core.durations import seconds_of
from romancy.core.events import Event, EventKind
from romancy.core.records import Status
from romancy.errors import (
    InstanceNotFoundError,
    NoAppError,
    NonRetryableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import timedelta

    from romancy.client.client import Client
    from romancy.core.calls import Call
    from romancy.core.records import Instance
    from romancy.workflows.channels import Channel

R = TypeVar("R")
T = TypeVar("T")


class Handle(Generic[R]):
    """One instance, from outside. Any number of handles may watch an instance, from any process."""

    def __init__(
        self,
        client: Client,
        id: str,
        decode: Callable[[bytes], object] | None,
        *,
        key: int | None = None,
    ) -> None:
        """Prepare; made by `Client.start` and `Client.get`.

        Args:
            client: What the handle asks.
            id: The instance's id.
            decode: Types the result; None: plain JSON.
            key: The instance's key, if it was created just now by this client.
        """
        self._client = client
        self._decode = decode
        self._key = key
        self.id = id

    async def _row(self) -> Instance:
        row = await self._client.storage.get(self.id)
        if row is None:
            msg = f"no instance has the id {self.id!r}"
            raise InstanceNotFoundError(msg)
        return row

    async def result(self, *, timeout: timedelta | float | None = None, wait_blocked: bool = False) -> R:
        """Wait for the end and return what the workflow returned.

        Args:
            timeout: How long to wait: a timedelta, or seconds; None: for ever. The instance goes on.
            wait_blocked: Go on waiting while the instance is blocked.

        Raises:
            WorkflowFailedError: It failed; its subclasses: it was cancelled, terminated, or ran out of time.
            WorkflowBlockedError: The deployed code can't go on with it, and ``wait_blocked`` is off.
            InstanceNotFoundError: No instance has the id (any more).
            NoAppError: The App was closed meanwhile.
            NonRetryableError: It has not ended, and an activity waits for it in its transaction (see `connection`).
            TimeoutError: ``timeout`` has passed.
        """
        seconds = seconds_of(timeout)
        if seconds is None:
            ended = await self._ended(wait_blocked=wait_blocked)
        else:
            async with asyncio.timeout(seconds):
                ended = await self._ended(wait_blocked=wait_blocked)
        return cast("R", self._outcome(ended))

    async def _ended(self, *, wait_blocked: bool) -> Ended:
        """Wait for the end. What this process executes needs no look at the database before."""
        if self._client.is_in_transaction:
            return await self._ended_already()
        key = self._key or (await self._row()).key
        waiters = self._client.waiters
        waiter = waiters.watch(key)
        if self._key is None or not self._client.is_told_of(key):
            waiter.event.set()
        try:
            while True:
                await waiter.event.wait()
                waiter.event.clear()
                ended, waiter.ended = waiter.ended, None
                if waiters.stalled is not None:
                    raise TimeoutError(waiters.stalled)
                if ended is None and waiters.is_closed:
                    msg = f"the App was closed; instance {self.id!r} goes on where its database is opened again"
                    raise NoAppError(msg)
                if ended is None or not ended.status.is_closed:
                    ended = await self._read_end()
                if ended is not None and (ended.status is not Status.BLOCKED or not wait_blocked):
                    self._key = key
                    return ended
        finally:
            waiters.unwatch(key, waiter)

    async def _ended_already(self) -> Ended:
        """Return how the instance ended, for a transaction that lets no instance go on while it is open."""
        ended = await self._read_end()
        if ended is None:
            msg = (
                f"instance {self.id!r} can't end while the transaction of this activity keeps the database: wait for "
                "it in the workflow, or before connection() is called"
            )
            raise NonRetryableError(msg)
        return ended

    async def _read_end(self) -> Ended | None:
        """Ask the database how the instance ended or why it is blocked; None if it goes on."""
        row = await self._row()
        if row.status is Status.BLOCKED:
            # A mended deploy: what is about to be tried again is blocked in the database only.
            return None if self._client.is_about_to_unblock(row) else Ended(row.status, row.reason)
        if not row.status.is_closed:
            return None
        events = await self._client.storage.history(row.key, run=row.run, after=row.next_seq - 2)
        return Ended(row.status, events[-1].payload if events else None, (row.workflow, row.version))

    def _outcome(self, ended: Ended) -> object:
        status, payload, definition = ended
        if status is Status.COMPLETED:
            data = payload or b"null"
            decode = self._decode if definition is None else self._client.decoder(*definition)
            return decode(data) if decode is not None else msgspec.json.decode(data)
        raise error_of(self.id, status, payload)

    async def status(self) -> str:
        """Return ``pending``, ``running``, ``blocked``, ``completed``, ``failed``, ``cancelled``, ...

        Raises:
            InstanceNotFoundError: No instance has the id.
        """
        return (await self._row()).status.name.lower()

    async def watch(self) -> AsyncIterator[InstanceInfo]:
        """Yield how the instance stands: now, and whenever its status, run, custom status or tags have changed.

        It is looked at as often as the database says that something has been written, and a few times a second: what
        changes twice in between is told once. The end is the last that is told; being blocked is none.

        Raises:
            InstanceNotFoundError: No instance has the id (any more).
            NoAppError: The App was closed meanwhile.
        """
        row = await self._row()
        waiters = self._client.waiters
        waiter = waiters.watch(row.key, is_curious=True)
        told: tuple[object, ...] = ()
        try:
            while True:
                waiter.event.clear()
                row = await self._row()
                shown = (row.status, row.run, row.custom_status, row.tags)
                if shown != told:
                    told = shown
                    yield info_of(row)
                if row.status.is_closed:
                    return
                if waiters.is_closed:
                    msg = f"the App was closed; instance {self.id!r} goes on where its database is opened again"
                    raise NoAppError(msg)
                await waiter.event.wait()
        finally:
            waiters.unwatch(row.key, waiter)

    async def info(self) -> InstanceInfo:
        """Describe the instance.

        Raises:
            InstanceNotFoundError: No instance has the id.
        """
        return info_of(await self._row())

    async def runs(self, *, limit: int = 100) -> list[RunInfo]:
        """Return the runs whose history is kept, the newest first: the latest, and those that `recur` has closed.

        A closed run is kept for the App's ``archive_retention``.

        Args:
            limit: At most so many, from 1.

        Raises:
            ValueError: The limit is less than 1.
            InstanceNotFoundError: No instance has the id.
        """
        check_limit(limit)
        row = await self._row()
        kept = await self._client.storage.kept_runs(row.key, before=row.run, limit=limit - 1)
        return [RunInfo(row.run, None), *(RunInfo(run.run, instant(run.closed_at)) for run in kept)]

    async def history(self, *, run: int | None = None) -> list[HistoryEvent]:
        """Return what a run has recorded, in order.

        Args:
            run: The run's number, from 0; None: the latest.

        Raises:
            InstanceNotFoundError: No instance has the id, or nothing is kept of that run.
        """
        return [
            HistoryEvent(
                seq=event.seq,
                turn=event.turn,
                at=instant(event.stamp),
                kind=EventKind(event.kind).name.lower(),
                activity_id=event.activity_id,
                payload=None if event.payload is None else event.payload.decode(),
            )
            for event in await self._events(run)
        ]

    async def saved_history(self, *, run: int | None = None) -> SavedHistory:
        """Return what a run has recorded in the form in which it is saved, to be replayed elsewhere.

        Args:
            run: The run's number, from 0; None: the latest, which alone can be replayed.

        Raises:
            InstanceNotFoundError: No instance has the id, or nothing is kept of that run.
        """
        row = await self._row()
        return saved_history(row, row.run if run is None else run, await self._events(run))

    async def _events(self, run: int | None) -> list[Event]:
        row = await self._row()
        events = await self._client.storage.history(row.key, run=row.run if run is None else run)
        if not events and run not in {None, row.run}:
            msg = (
                f"no history is kept of run {run} of instance {self.id!r}, whose latest run is {row.run}: "
                "closed runs are removed after the App's archive_retention"
            )
            raise InstanceNotFoundError(msg)
        return events

    async def timeline(self, *, run: int | None = None) -> list[Happening]:
        """Return what a run has done so far, told for people, in order.

        Args:
            run: The run's number, from 0; None: the latest.

        Raises:
            InstanceNotFoundError: No instance has the id, or nothing is kept of that run.
        """
        return timeline_of(await self._events(run))

    async def children(self) -> list[ChildInfo]:
        """Return the children that were not purged, by the run that has started them, in the order of their creation.

        Raises:
            InstanceNotFoundError: No instance has the id.
        """
        links = await self._client.storage.children((await self._row()).key)
        return [
            ChildInfo(link.id, link.workflow, link.status.name.lower(), link.run, link.activity_id, link.policy)
            for link in links
        ]

    async def cancel(self, reason: str = "", *, grace: timedelta | float | None = None) -> None:
        """Ask the run to cancel: `asyncio.CancelledError` is raised in it, once; then it compensates.

        Returns when the request is recorded, not when the run has ended. Cleaning up may take its time, run activities,
        and even catch the cancel and go on; it is not raised again. A second request changes nothing but the grace.

        Args:
            reason: Why; the message of the `CancelledError`, and of the run's failure.
            grace: How long the run may take from the moment when the request reaches it, compensations included: a
                timedelta, or seconds. Then it is terminated, and its failure says so and names what is not undone.
                None: as long as it takes. The shortest grace that was given counts, for the run that it reaches: one
                that catches the cancel and calls `recur` has ended.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
            ValueError: ``grace`` is negative.
        """
        await self._client.cancel(self.id, reason, grace=grace)

    async def terminate(self, reason: str = "", *, recursive: bool = True) -> None:
        """End the instance now: nothing of it runs any more, nothing is compensated.

        Args:
            reason: Why, for those who ask.
            recursive: Also terminate, in the same transaction, what it has started and not abandoned, and what those
                have; else its children are cancelled, terminated or left as they were started to be.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended (recursively: and so has all that it started).
        """
        await self._client.terminate(self.id, reason, recursive=recursive)

    async def pause(self) -> None:
        """Pause the instance: no turn, timer or activity of it begins any more; what arrives is kept.

        Activities that are running end, and their results are recorded. Terminating works; everything else, a cancel
        too, waits until it goes on.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
            WorkflowBlockedError: It is blocked.
        """
        await self._client.pause(self.id)

    async def unpause(self) -> None:
        """Let the paused instance go on: what was due or has arrived meanwhile comes now. Nothing if it is not paused.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
        """
        await self._client.unpause(self.id)

    async def retry(self) -> None:
        """Let the instance go on that is blocked or has failed.

        A blocked one is tried again with the code that is deployed now, its own build included. One that has failed
        goes on where it failed: what is recorded before stays, the activities whose failures made it fail run again,
        with the same idempotency keys and new attempts, and so do those that had no outcome then. What it did after
        that, cleaning up, is forgotten, and messages that it has received meanwhile are unread again. If its code had
        failed by itself, its last turn is computed again. A child that made it fail is retried with it, in the same
        transaction. A time limit that has passed is lifted.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceRunningError: It goes on by itself; or a parent goes on that knows that it has failed.
            InstanceClosedError: It has not failed, but ended otherwise; or it has undone what it had done, so that it
                can't go on as if it had not: `rerun` it from there. Nothing is changed.
        """
        await self._client.retry(self.id)

    async def rerun(
        self,
        *,
        from_activity: str | None = None,
        input: Call[Any] | Mapping[str, object] | None = None,
        new_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        timeout: timedelta | float | None = None,
    ) -> Handle[R]:
        """Start an instance that does the same again, from its beginning or an activity; see `Client.rerun`."""
        return await self._client.rerun(
            self.id, from_activity=from_activity, input=input, new_id=new_id, tags=tags, timeout=timeout
        )

    async def send(
        self,
        channel: Channel[T],
        message: T,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a message to the instance; see `Client.send`."""
        await self._client.send(channel, message, to=self.id, message_id=message_id, headers=headers)

    def __repr__(self) -> str:
        return f"<handle on {self.id!r}>"
