"""The seam between the engine and a database.

Every method is one transaction. Every method may raise `StorageError` when the database can't be reached; what it
wanted to write is then either written whole or not at all, and calling it again with the same values is safe.
Instants are epoch microseconds on the storage's own clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from romancy.activities.transaction import Parameters, Scope, SqlResult
    from romancy.core.clock import Clock
    from romancy.core.events import Event
    from romancy.core.records import (
        Accepted,
        Branch,
        ChildLink,
        Claims,
        Creation,
        Elder,
        Entry,
        HandedOut,
        Heartbeat,
        Instance,
        InstanceFilter,
        KeptRun,
        Mail,
        NewInstance,
        OpenCounts,
        Post,
        PostResult,
        Publication,
        Refused,
        Rejected,
        SessionInfo,
        Standing,
        Undone,
    )
    from romancy.errors import StorageError


class Transaction(Protocol):
    """One transaction for an activity's own statements, which also records the activity's result.

    Attributes:
        ended: Done when the transaction is over. Its result is None if it was asked to end, and an error that says why
            if it has ended by itself: its limit has passed, or the database has undone it.
    """

    ended: asyncio.Future[StorageError | None]

    async def execute(self, sql: str, parameters: Parameters) -> SqlResult:
        """Execute one statement of the activity's author, after those that were handed over before.

        The database's own errors are raised as they are and undo the statement alone, where the database can do so.

        Raises:
            StorageError: The transaction is over.
            NonRetryableError: The statement would end the transaction, change the engine's tables, or leave something
                behind on the connection. Nothing is done.
        """
        ...

    async def executemany(self, sql: str, rows: Sequence[Parameters]) -> SqlResult:
        """Execute one statement for each row, all or none; otherwise as `execute`."""
        ...

    async def commit(self, session: int, entry: Entry) -> Accepted | Rejected | Undone:
        """Write an entry within the transaction, with the fence and the conditions of `Storage.commit`, and commit.

        Atomic: the entry, the statements and what has joined the transaction become durable together, or nothing does.

        Returns:
            `Accepted` when it is durable. `Rejected` if the entry does not hold, `Undone` if anything else stands in
            the way (the limit, a constraint that is checked now): everything has certainly been rolled back.

        Raises:
            SessionLostError: The session is dead; everything is rolled back.
            StorageError: The acknowledgement is lost: nobody knows whether it is committed, but the history does.
        """
        ...

    async def rollback(self) -> None:
        """Undo everything and wait until it is undone. Nothing if the transaction is over."""
        ...


class Storage(Protocol):
    """Keep instances, their histories and inboxes, and the sessions of workers.

    Attributes:
        clock: Tells the instants that are stored and compared.
        transactions_at_once: How many transactions of activities can be open at a time.
    """

    clock: Clock
    transactions_at_once: int

    @property
    def poll_interval(self) -> timedelta:
        """How often to look at the database although nothing says that it has changed; it may change.

        A notice that is lost costs at most that.
        """
        ...

    async def open(self, *, migrate: bool = True) -> None:
        """Connect, and bring the schema up to date under a lock (or only verify it).

        Raises:
            SchemaVersionError: The database is newer than this romancy, or holds something else, or
                ``migrate`` is off and it is older. It is not touched.
            StorageError: The database can't be opened.
        """
        ...

    async def close(self) -> None:
        """Free connections and threads. Safe to call twice."""
        ...

    async def open_session(self, info: SessionInfo, ttl: timedelta) -> int:
        """Register a worker; its session lives for ``ttl`` from now unless renewed."""
        ...

    async def renew_session(self, session: int, ttl: timedelta) -> Elder:
        """Let the session live for ``ttl`` from now.

        Returns:
            The oldest session that is live, which has the duties that one worker does for all.

        Raises:
            SessionLostError: It was declared dead or has expired; it can't come back.
        """
        ...

    async def close_session(self, session: int) -> None:
        """End the session and free what it owns, claimable at once where it was due. Nothing if it is gone."""
        ...

    async def free_strays(self, session: int, held: Sequence[int], starting: Sequence[int] = ()) -> int:
        """Free what a session owns without knowing: what a claim or start took whose acknowledgement was lost.

        Args:
            session: The asking worker's session.
            held: The keys of the instances that it knows of.
            starting: The execution ids of those that it is about to know of: their creation is under way.

        Returns:
            How many instances were freed.
        """
        ...

    async def reap_sessions(self, is_gone: Callable[[str], bool] = ...) -> int:
        """Declare dead what has expired or certainly ended, and free what it owns, in the same transaction.

        An instance that was due while it was owned (a turn or a body was under way) counts a recovery.

        Args:
            is_gone: Told a session's `SessionInfo.process`, says whether that process has ended; by default never.

        Returns:
            How many instances were freed.
        """
        ...

    async def create(self, new: NewInstance, on_conflict: Literal["raise", "attach", "restart"] = "raise") -> Creation:
        """Create an instance.

        A row with the same ``execution_id`` is this call's own, written by an attempt whose acknowledgement
        was lost: it is returned as new.

        Raises:
            InstanceAlreadyExistsError: The id is taken, and ``on_conflict`` is ``"raise"``.
            InstanceRunningError: ``"restart"``, and the instance has not ended.
        """
        ...

    async def post(self, posts: Sequence[Post]) -> list[PostResult]:
        """Put items into instances' inboxes and make the instances claimable now, all of them or none.

        A message does not start a pending instance before its time; a cancel does. What is for another start than
        the one that has the id is not found.

        Returns:
            What has become of each, in order; if any of them can't be delivered, nothing is written.
        """
        ...

    async def publish(self, publications: Sequence[Publication]) -> list[PostResult]:
        """Add messages to topics, in order, all of them or none; `hand_out` brings them to subscribers.

        Returns:
            What has become of each, in order: posted, a duplicate, or, for all, that a channel is no topic.
        """
        ...

    async def hand_out(self, *, limit: int) -> HandedOut:
        """Put published messages into the inboxes of their subscribers, and make those claimable now.

        A broadcast message is copied to all that subscribed before it was published, in the order of publication; a
        competing one is moved to the receive that has waited longest. Atomic, and safe to repeat.

        Args:
            limit: About how many messages to put into inboxes in this transaction; at least 1.
        """
        ...

    async def claim(self, session: int, definitions: Sequence[tuple[str, str]], build: str, *, limit: int) -> Claims:
        """Take ownership of instances that are due.

        Atomic: two sessions never claim the same instance. A pending instance becomes RUNNING and gets its
        ``started_at``. A blocked instance is taken only by a build other than the one that blocked it, and
        becomes RUNNING. A paused one is not taken. The claim itself leaves ``wake_at`` untouched (in the past).

        Args:
            session: The claiming worker's live session.
            definitions: The (workflow, version) pairs that it serves.
            build: The worker's build.
            limit: Upper bound on the result's length; at least 1.

        Returns:
            At most ``limit`` claims, highest priority first, then earliest ``wake_at``, each with its history,
            inbox and heartbeats.

        Raises:
            SessionLostError: The session is dead.
        """
        ...

    async def commit(self, session: int, entries: Sequence[Entry]) -> list[Accepted | Rejected | Refused]:
        """Write what turns ask for: each entry whole or not at all.

        Idempotent: an entry that an earlier call has written is recognised by its first event and accepted
        again with the same outcomes. At most one entry per instance in a call. One that records something, or with
        which its run goes to sleep, sets the count of recoveries back.

        Returns:
            One answer per entry, in order.

        Raises:
            SessionLostError: The session is dead; nothing is written, or nothing more.
        """
        ...

    async def beat(self, session: int, heartbeats: Sequence[Heartbeat]) -> None:
        """Keep the latest details of running activities, for whoever has to run them again.

        Those of instances that the session does not own, or not in that run, are passed over. A commit deletes them
        (`Entry.silenced`), as do the instance's end by `terminate` and its purge.

        Raises:
            SessionLostError: The session is dead; nothing is written.
        """
        ...

    async def transaction(self, scope: Scope, *, limit: timedelta) -> Transaction:
        """Begin a transaction for an activity's own statements; the database lets nobody else get in its way.

        What the tasks of the scope ask of this storage from now on belongs to it: what clients
        write (`create`, `post`, `publish`, `pause`, `terminate`, ...) takes effect if it commits and does not if it is
        rolled back, and reading sees it. Everything else of the storage goes on, but may have to wait until the
        transaction is over.

        Args:
            scope: Whose transaction it is; it is noted there.
            limit: For how long it may be open. Then it is rolled back, whatever its owner does.

        Raises:
            StorageError: It can't begin.
        """
        ...

    async def mail(self, session: int) -> list[Mail]:
        """Read the inbox rows of owned instances that their owner has not seen (``seq > inbox_seen``)."""
        ...

    async def block_unserved(self, *, due_before: int, is_spared: Callable[[str, str], bool] = ...) -> int:
        """Block unowned instances that were due before that instant and that no live session serves.

        They keep their ``wake_at``, are blocked by no build, so any worker that serves them claims them, and their
        reason names the workflow and version that are missing.

        Args:
            due_before: An instant; what is due only later is left.
            is_spared: Told a workflow and version without a worker, says whether to leave it for now; by default never.

        Returns:
            How many were blocked.
        """
        ...

    async def prune(
        self,
        *,
        instances: timedelta | None = None,
        archives: timedelta | None,
        deliveries: timedelta | None,
        limit: int,
    ) -> int:
        """Remove what has been kept for long enough, the oldest first; safe to call from any number of workers.

        Args:
            instances: How long an instance that has ended is kept, with all that is known of it; None: for ever.
            archives: How long the history of a run that recur has closed is kept; None: for ever.
            deliveries: How long the id of a message that was posted or published is kept; None: for ever. After that
                another message with the id is delivered again. What was published to a channel to which nobody has
                subscribed is kept as long.
            limit: About how many rows to remove at most, at least 1: a transaction stays short.

        Returns:
            How many rows were removed; less than ``limit`` when nothing is left to remove.
        """
        ...

    async def get(self, id: str) -> Instance | None:
        """Read an instance's row."""
        ...

    async def history(self, key: int, *, run: int | None = None, after: int = -1) -> list[Event]:
        """Read the events with ``seq > after`` of a run (None: the current one), ordered by seq."""
        ...

    async def kept_runs(self, key: int, *, before: int, limit: int) -> list[KeptRun]:
        """Read which of the runs that recur has closed are still kept, of those before a run; the newest first."""
        ...

    async def list(self, where: InstanceFilter, *, after: int = 0, limit: int = 100) -> list[Instance]:
        """Read instances with ``key > after``, ordered by key."""
        ...

    async def get_many(self, keys: Sequence[int]) -> Sequence[Instance]:
        """Read instances' rows, in the order of their keys; a purged one is missing."""
        ...

    async def children(self, key: int) -> Sequence[ChildLink]:
        """Read the children of an instance that have not been purged, by run, in the order of their creation."""
        ...

    async def count(self, where: InstanceFilter, *, after: int = 0) -> int:
        """Count the instances with ``key > after`` that `list` would read."""
        ...

    async def last_key(self) -> int | None:
        """Return the greatest key of an instance; None: there are none."""
        ...

    async def count_open(self) -> OpenCounts:
        """Count the instances that have not ended."""
        ...

    async def standings(self, keys: Sequence[int]) -> dict[int, Standing]:
        """Read how instances stand, and how they ended; a purged one is missing."""
        ...

    async def terminate(self, id: str, failure: bytes, *, is_recursive: bool = True) -> Sequence[int]:
        """End an instance now, whoever owns it; its owner's next entry is rejected.

        A `RUN_TERMINATED` event is its last. Its children are terminated in the same transaction, unless they are
        abandoned; also those of children that have ended. Not recursively, it means for them what any end does.

        Returns:
            The keys of the instances that were ended.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended already, and so has all that it started.
        """
        ...

    async def pause(self, id: str) -> None:
        """Make an instance PAUSED: it is claimed by nobody, and its owner begins no turn any more.

        An owner's entries that were under way are still taken; it keeps what bodies end in, and lets the instance go.
        Nothing if it is paused already.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
            WorkflowBlockedError: It is blocked.
        """
        ...

    async def unpause(self, id: str) -> None:
        """Let a paused instance go on where it was; nothing if it is not paused.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
        """
        ...

    async def purge(self, id: str, *, is_recursive: bool = True) -> Sequence[int]:
        """Delete an instance that has ended, with its history, archived runs, tags and inbox.

        Recursively, in the same transaction, also what it has started and not abandoned, and what those have.

        Returns:
            The keys of the instances that were deleted; empty if an earlier try did it whose acknowledgement was lost.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceRunningError: It, or one of the others, has not ended; nothing is deleted.
        """
        ...

    async def unblock(self, id: str) -> None:
        """Let any worker try a blocked instance again, now, with whatever code it has. Its recoveries count anew.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceRunningError: It is not blocked.
        """
        ...

    async def rewind(self, branches: Sequence[Branch]) -> None:
        """Let instances that have failed go on in another way, all of them or none; claimable now.

        What comes after a branch's cut is deleted, and its events are there instead. What had been received since is
        unread again; subscriptions are open again, from now on; of children that had not ended by the cut the end is
        (or will be) told, those that were started after it are its children no more. The parents of the instances are
        those of before.

        Args:
            branches: In the order of parents before their children.

        Raises:
            InstanceNotFoundError: There is no such instance any more, or it was started anew.
            InstanceRunningError: One of them does not stand as it did, or its end is known to a parent that goes on.
        """
        ...

    async def branch(self, new: NewInstance, branch: Branch) -> Creation:
        """Create an instance whose history begins as another one's, which is left as it is; claimable now.

        ``new.trace_context`` and ``tags`` are its own; its run has the number of the other's. The branch's first event
        comes before the copied ones, which have numbers that are higher by one; the others follow them. The other's
        children that had not ended by the cut are attached to both; its subscriptions are open from now on.

        Raises:
            InstanceAlreadyExistsError: The id is taken.
            InstanceNotFoundError: There is no such instance any more, or it was started anew.
            InstanceRunningError: The other has begun another run since, or was rewound.
        """
        ...

    async def wait_for_change(self, timeout: timedelta) -> bool:
        """Return True soon after another process has written to the database, False when ``timeout`` is over."""
        ...
