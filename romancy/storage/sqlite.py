"""Everything in one SQLite file, or in memory."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar

from romancy.activities.transaction import current_scope
from romancy.core.clock import Clock, SystemClock
from romancy.core.events import Event
from romancy.core.records import HandedOut, Status
from romancy.storage import (
    sqlite_claims,
    sqlite_commit,
    sqlite_instances,
    sqlite_retention,
    sqlite_sessions,
    sqlite_topics,
)
from romancy.storage.sql import history, instances, topics
from romancy.storage.sqlite_file import connect_reader, connect_writer, locate
from romancy.storage.sqlite_guard import Guard
from romancy.storage.sqlite_thread import SqliteThread
from romancy.storage.sqlite_transaction import SqliteTransaction

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from romancy.activities.transaction import Scope
    from romancy.core.records import (
        Accepted,
        Claims,
        Creation,
        Entry,
        Heartbeat,
        Instance,
        InstanceFilter,
        KeptRun,
        Mail,
        NewInstance,
        Post,
        PostResult,
        Publication,
        Refused,
        Rejected,
        SessionInfo,
    )
    from romancy.storage.sqlite_thread import Work

T = TypeVar("T")

_MICROSECOND = timedelta(microseconds=1)
_BEGINNING = -1
"""Before everything."""

# In seconds.
_SHORTEST_POLL = 0.002
_LONGEST_POLL = 0.02
_POLL_GROWTH = 1.2
_LATELY = 0.25


def _spares_nothing(_: str, __: str) -> bool:
    return False


def _nobody(_: str) -> bool:
    return False


class SqliteStorage:
    """Keep everything in one SQLite file, in WAL mode; the `Storage` for one machine.

    Writes of this process that are ready at one moment share a transaction. Other processes may have the
    same file open.

    Args:
        path_or_url: A path, or ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://`` for
            memory; a URL may end in ``?synchronous=NORMAL``.
        synchronous: ``"FULL"``: what is committed survives a power cut. ``"NORMAL"``: it survives a crash of
            the process, and a power cut may undo the last commits.
        clock: Tells the instants that are stored and compared.
        lock_timeout: For how long to wait for other processes' transactions before a `StorageError`.

    Raises:
        StorageError: The URL can't be understood.
    """

    def __init__(
        self,
        path_or_url: str | Path,
        *,
        synchronous: str = "FULL",
        clock: Clock | None = None,
        lock_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        self._location = locate(path_or_url, synchronous)
        self._clock = clock or SystemClock()
        self._lock_timeout = lock_timeout.total_seconds()
        self._is_migrating = True
        self._writer = SqliteThread(self._location.path, self._connect_writer, lock_timeout=self._lock_timeout)
        self._reader = self._writer
        if not self._location.is_memory:
            self._reader = SqliteThread(self._location.path, self._connect_reader, lock_timeout=self._lock_timeout)
        self._guard = Guard()
        self._version: int | None = None
        self._last_change = 0.0
        self._pause = _SHORTEST_POLL

    def _connect_writer(self) -> sqlite3.Connection:
        return connect_writer(
            self._location,
            migrate=self._is_migrating,
            lock_timeout=self._lock_timeout,
            now=self._clock.now(),
        )

    def _connect_reader(self) -> sqlite3.Connection:
        return connect_reader(self._location, lock_timeout=self._lock_timeout)

    async def open(self, *, migrate: bool = True) -> None:
        """Connect, and bring the schema up to date under a lock (or only verify it).

        Raises:
            SchemaVersionError: The database is newer than this romancy, or holds something else, or
                ``migrate`` is off and it is older. It is not touched.
            StorageError: The database can't be opened.
        """
        self._is_migrating = migrate
        await self._writer.open()
        if self._reader is self._writer:
            return
        try:
            self._version = await self._writer.read(_data_version)
            await self._reader.open()
        except BaseException:
            await self._writer.close()
            raise

    async def close(self) -> None:
        """Free connections and threads. Safe to call twice."""
        try:
            await self._reader.close()
        finally:
            await self._writer.close()

    # Sessions

    async def open_session(self, info: SessionInfo, ttl: timedelta) -> int:
        """Register a worker; its session lives for ``ttl`` from now unless renewed."""

        def work(connection: sqlite3.Connection) -> int:
            now = self._clock.now()
            return sqlite_sessions.open_session(connection, info, now + ttl // _MICROSECOND, now)

        return await self._writer.write(work)

    async def renew_session(self, session: int, ttl: timedelta) -> None:
        """Let the session live for ``ttl`` from now.

        Raises:
            SessionLostError: It was declared dead or has expired; it can't come back.
        """

        def work(connection: sqlite3.Connection) -> None:
            now = self._clock.now()
            sqlite_sessions.renew_session(connection, session, now + ttl // _MICROSECOND, now)

        await self._writer.write(work)

    async def close_session(self, session: int) -> None:
        """End the session and free what it owns, claimable at once where it was due. Safe to call twice."""
        await self._writer.write(lambda c: sqlite_sessions.close_session(c, session, self._clock.now()))

    async def free_strays(self, session: int, held: Sequence[int], starting: Sequence[int] = ()) -> int:
        """Free what a session owns without knowing, claimable at once where it was due.

        Returns:
            How many instances were freed.
        """
        return await self._writer.write(
            lambda c: sqlite_sessions.free_strays(c, session, held, starting, self._clock.now())
        )

    async def reap_sessions(self, is_gone: Callable[[str], bool] = _nobody) -> int:
        """Declare expired sessions dead, the caller's own too, and those of ended processes; free what they own.

        Returns:
            How many instances were freed.
        """
        return await self._writer.write(lambda c: sqlite_sessions.reap_sessions(c, self._clock.now(), is_gone))

    async def block_unserved(self, *, due_before: int, is_spared: Callable[[str, str], bool] = _spares_nothing) -> int:
        """Block unowned instances that were due before that instant and that no live session serves.

        Returns:
            How many were blocked.
        """
        return await self._writer.write(
            lambda c: sqlite_sessions.block_unserved(c, due_before, self._clock.now(), is_spared)
        )

    async def prune(self, *, archives: timedelta | None, deliveries: timedelta | None, limit: int) -> int:
        """Remove closed runs and ids of delivered messages that have been kept for long enough, the oldest first.

        Returns:
            How many rows were removed; less than ``limit`` when nothing is left to remove.
        """

        def work(connection: sqlite3.Connection) -> int:
            now = self._clock.now()
            until = [
                _BEGINNING if kept is None else max(now - kept // _MICROSECOND, _BEGINNING)
                for kept in (archives, deliveries)
            ]
            return sqlite_retention.prune(connection, until[0], until[1], limit)

        return await self._writer.write(work)

    # What clients do

    async def create(self, new: NewInstance, on_conflict: Literal["raise", "attach", "restart"] = "raise") -> Creation:
        """Create an instance; a restarted one gets a new key.

        Raises:
            InstanceAlreadyExistsError: The id is taken, and ``on_conflict`` is ``"raise"``.
            InstanceRunningError: ``"restart"``, and the instance has not ended.
        """
        return await self._progress(lambda c: sqlite_instances.create(c, new, on_conflict, self._clock.now()))

    async def post(self, posts: Sequence[Post]) -> list[PostResult]:
        """Put items into instances' inboxes and make the instances claimable now, all of them or none."""
        return await self._progress(lambda c: sqlite_instances.post(c, posts, self._clock.now()))

    async def publish(self, publications: Sequence[Publication]) -> list[PostResult]:
        """Add messages to topics, in order, all of them or none."""
        return await self._progress(lambda c: sqlite_topics.publish(c, publications, self._clock.now()))

    async def terminate(self, id: str, failure: bytes, *, is_recursive: bool = True) -> list[int]:
        """End an instance now, whoever owns it, and its children.

        Returns:
            The keys of the instances that were ended.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended already, and so has all that it started.
        """

        def work(connection: sqlite3.Connection) -> list[int]:
            return sqlite_instances.terminate(connection, id, failure, self._clock.now(), is_recursive=is_recursive)

        return await self._progress(work)

    async def pause(self, id: str) -> None:
        """Make an instance PAUSED: nothing of it runs any more.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
            WorkflowBlockedError: It is blocked.
        """
        await self._progress(lambda c: sqlite_instances.pause(c, id))

    async def unpause(self, id: str) -> None:
        """Let a paused instance go on where it was.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
        """
        await self._progress(lambda c: sqlite_instances.unpause(c, id, self._clock.now()))

    async def purge(self, id: str) -> None:
        """Delete an instance that has ended, with its history and inbox.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceRunningError: It has not ended.
        """
        await self._progress(lambda c: sqlite_instances.purge(c, id))

    # What owners do

    async def claim(self, session: int, definitions: Sequence[tuple[str, str]], build: str, *, limit: int) -> Claims:
        """Take ownership of instances that are due.

        Atomic: two sessions never claim the same instance.

        Returns:
            At most ``limit`` claims, highest priority first, then earliest ``wake_at``, then oldest.

        Raises:
            SessionLostError: The session is dead.
        """
        return await self._writer.write(
            lambda c: sqlite_claims.claim(c, session, definitions, build, limit=limit, now=self._clock.now())
        )

    async def commit(self, session: int, entries: Sequence[Entry]) -> list[Accepted | Rejected | Refused]:
        """Write what turns ask for: each entry whole or not at all, in one transaction. Idempotent.

        Returns:
            One answer per entry, in order.

        Raises:
            SessionLostError: The session is dead; nothing is written.
        """
        self._last_change = asyncio.get_running_loop().time()
        return await self._writer.write(lambda c: sqlite_commit.commit(c, session, entries, self._clock.now()))

    async def hand_out(self, *, limit: int) -> HandedOut:
        """Put published messages into the inboxes of their subscribers; writes nothing where none is published."""
        if not await self._reader.read(lambda c: c.execute(topics.HAS_PENDING).fetchone() is not None):
            return HandedOut([], has_more=False)
        return await self._progress(lambda c: sqlite_topics.hand_out(c, limit, self._clock.now()))

    async def beat(self, session: int, heartbeats: Sequence[Heartbeat]) -> None:
        """Keep the latest details of running activities, for whoever has to run them again.

        Raises:
            SessionLostError: The session is dead; nothing is written.
        """
        await self._writer.write(lambda c: sqlite_commit.beat(c, session, heartbeats, self._clock.now()))

    async def transaction(self, scope: Scope, *, limit: timedelta) -> SqliteTransaction:
        """Begin a transaction for an activity's own statements: it has the writer to itself.

        Raises:
            StorageError: It can't begin.
        """
        self._last_change = asyncio.get_running_loop().time()
        transaction = SqliteTransaction(
            self._writer,
            self._guard,
            self._clock,
            name=self._location.path,
            limit=limit.total_seconds(),
            lock_timeout=self._lock_timeout,
        )
        scope.joined = transaction
        await transaction.begin()
        return transaction

    async def mail(self, session: int) -> list[Mail]:
        """Read the inbox rows of owned instances that their owner has not seen, ordered by key and seq."""
        return await self._reader.read(lambda c: sqlite_claims.mail(c, session))

    # Reading

    async def get(self, id: str) -> Instance | None:
        """Read an instance's row."""
        return await self._look(lambda c: sqlite_instances.get(c, id))

    async def history(self, key: int, *, run: int | None = None, after: int = -1) -> list[Event]:
        """Read the events with ``seq > after`` of a run (None: the current one), ordered by seq."""

        def work(connection: sqlite3.Connection) -> list[Event]:
            found = (
                connection.execute(history.OF_CURRENT_RUN, (key, key, after))
                if run is None
                else connection.execute(history.OF_RUN, (key, run, after))
            )
            return [Event._make(row) for row in found]

        return await self._look(work)

    async def statuses(self, keys: Sequence[int]) -> dict[int, Status]:
        """Read how instances stand; a purged one is missing."""

        def work(connection: sqlite3.Connection) -> dict[int, Status]:
            found = connection.execute(instances.STATUSES, (json.dumps(list(keys)),))
            return {key: Status(status) for key, status in found}

        return await self._look(work)

    async def kept_runs(self, key: int, *, before: int, limit: int) -> list[KeptRun]:
        """Read which of the runs that recur has closed are still kept, of those before a run; the newest first."""
        return await self._look(lambda c: sqlite_retention.kept_runs(c, key, before, limit))

    async def list(self, where: InstanceFilter, *, after: int = 0, limit: int = 100) -> list[Instance]:
        """Read instances with ``key > after``, ordered by key."""
        return await self._look(lambda c: sqlite_instances.page(c, where, after, limit))

    async def wait_for_change(self, timeout: timedelta) -> bool:
        """Return True soon after another process has written to the database, False at ``timeout``.

        A change since the last call counts. Looks every 2 ms while something was written in the last
        quarter of a second, here or elsewhere, and ever more rarely after that, down to every 20 ms. In between
        the writer is free.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        while not self._location.is_memory:
            # Of the writer's connection: its own commits don't count there.
            version = await self._writer.read(_data_version)
            has_changed = version != self._version
            self._version = version
            now = loop.time()
            if has_changed:
                self._last_change = now
                return True
            if now >= deadline:
                return False
            is_lively = now < self._last_change + _LATELY
            self._pause = _SHORTEST_POLL if is_lively else min(self._pause * _POLL_GROWTH, _LONGEST_POLL)
            await asyncio.sleep(min(self._pause, deadline - now))
        await self._writer.read(_data_version)  # nobody else writes here, but a closed storage must say so
        await asyncio.sleep(deadline - loop.time())
        return False

    async def _progress(self, work: Work[T]) -> T:
        """Write for a client, within its transaction, if it has one; another process may soon answer to it."""
        self._last_change = asyncio.get_running_loop().time()
        joined = await self._joined()
        return await (self._writer.write(work) if joined is None else joined.run(work))

    async def _look(self, work: Work[T]) -> T:
        """Read for a client: within its transaction, if it has one."""
        joined = await self._joined()
        return await (self._reader.read(work) if joined is None else joined.run(work))

    async def _joined(self) -> SqliteTransaction | None:
        """Return the transaction of the activity that calls, begun and on this database; None if there is none.

        Raises:
            StorageError: It can't begin, or it is over: what its tasks still do must not take effect by itself.
        """
        scope = current_scope.get(None)
        if scope is None or not scope.is_asked:
            return None
        if scope.joined is None:
            await scope.begin()
        if not isinstance(scope.joined, SqliteTransaction) or not scope.joined.is_of(self._writer):
            return None
        await scope.begin()
        return scope.joined


def _data_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version
