"""Everything in one SQLite file, or in memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from romancy.core.clock import Clock, SystemClock
from romancy.core.records import Claims
from romancy.storage import claims, sqlite_plain
from romancy.storage.sql_storage import SqlStorage
from romancy.storage.sqlite_file import connect_reader, connect_writer, locate
from romancy.storage.sqlite_guard import Guard
from romancy.storage.sqlite_thread import SqliteThread
from romancy.storage.sqlite_transaction import SqliteTransaction
from romancy.storage.sqlite_tx import SqliteTx, drive

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path

    from romancy.activities.transaction import Scope
    from romancy.core.records import Accepted, Entry, Refused, Rejected
    from romancy.storage.sql_storage import Work
    from romancy.storage.tx import Tx

T = TypeVar("T")

# In seconds.
_SHORTEST_POLL = 0.002
_LONGEST_POLL = 0.02
_POLL_GROWTH = 1.2
_LATELY = 0.25
_POLL_INTERVAL = timedelta(seconds=1)


class SqliteStorage(SqlStorage[SqliteTransaction]):
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
        self.clock: Clock = clock or SystemClock()
        self.transactions_at_once = 1
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
            now=self.clock.now(),
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

    async def claim(self, session: int, definitions: Sequence[tuple[str, str]], build: str, *, limit: int) -> Claims:
        """Take ownership of instances that are due.

        Atomic: two sessions never claim the same instance.

        Returns:
            At most ``limit`` claims, highest priority first, then earliest ``wake_at``, then oldest.

        Raises:
            SessionLostError: The session is dead.
        """

        async def work(tx: Tx) -> Claims:
            keys, next_due = await claims.due(tx, session, definitions, build, limit=limit)
            return Claims(await claims.take(tx, session, keys, build), next_due)

        return await self._write(work)

    async def commit(self, session: int, entries: Sequence[Entry]) -> list[Accepted | Rejected | Refused]:
        """Write what turns ask for: each entry whole or not at all, in one transaction. Idempotent.

        Returns:
            One answer per entry, in order.

        Raises:
            SessionLostError: The session is dead; nothing is written.
        """
        self._last_change = asyncio.get_running_loop().time()
        return await self._writer.write(lambda c: drive(sqlite_plain.commit(self._tx(c), session, entries)))

    async def transaction(self, scope: Scope, *, limit: timedelta) -> SqliteTransaction:
        """Begin a transaction for an activity's own statements: it has the writer to itself.

        Raises:
            StorageError: It can't begin.
        """
        self._last_change = asyncio.get_running_loop().time()
        transaction = SqliteTransaction(
            self,
            self._writer,
            self._guard,
            name=self._location.path,
            limit=limit.total_seconds(),
            lock_timeout=self._lock_timeout,
        )
        scope.joined = transaction
        await transaction.begin()
        return transaction

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

    @property
    def poll_interval(self) -> timedelta:
        """How often to look at the database although nothing says that it has changed."""
        return _POLL_INTERVAL

    def _tx(self, connection: sqlite3.Connection) -> SqliteTx:
        return SqliteTx(connection, self.clock.now())

    async def _write(self, work: Work[T], *, relying_on: int | None = None) -> T:  # noqa: ARG002 - a fence costs no trip
        return await self._writer.write(lambda c: drive(work(self._tx(c))))

    async def _read(self, work: Work[T]) -> T:
        return await self._reader.read(lambda c: drive(work(self._tx(c))))

    async def _progress(self, work: Work[T]) -> T:
        """Write for a client, within its transaction, if it has one; another process may soon answer to it."""
        self._last_change = asyncio.get_running_loop().time()
        return await super()._progress(work)


def _data_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version
