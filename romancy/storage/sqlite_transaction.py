"""The writer of a process, for one activity: its statements, and the entry that records its result."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from romancy.activities.transaction import SqlResult
from romancy.core.records import Accepted, Refused, Rejected, Undone
from romancy.errors import NonRetryableError, StorageError
from romancy.storage import sqlite_plain
from romancy.storage.commit import still_holds
from romancy.storage.sqlite_thread import Outcome, retry_while_busy, run, run_in_savepoint
from romancy.storage.sqlite_tx import SqliteTx, drive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.activities.transaction import Parameters
    from romancy.core.records import Entry
    from romancy.storage.sql_storage import Work as TxWork
    from romancy.storage.sqlite import SqliteStorage
    from romancy.storage.sqlite_guard import Guard
    from romancy.storage.sqlite_thread import SqliteThread, Work

T = TypeVar("T")
_STEPS = 20_000
"""Instructions of SQLite's machine between two looks at the time: a few milliseconds."""


class _OverError(StorageError):
    """The transaction was over before what was asked of it."""


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    is_last: bool


class SqliteTransaction:
    """Hold the writer's thread and a transaction, and serve one activity alone, until it ends or its limit has passed.

    Implements `romancy.storage.protocol.Transaction`. The limit is kept by the thread, so that it holds whatever the
    event loop does. Used from one event loop.
    """

    def __init__(
        self,
        storage: SqliteStorage,
        thread: SqliteThread,
        guard: Guard,
        *,
        name: str,
        limit: float,
        lock_timeout: float,
    ) -> None:
        self._storage = storage
        self._thread = thread
        self._guard = guard
        self._name = name
        self._limit = limit
        self._lock_timeout = lock_timeout
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending: set[asyncio.Future[Any]] = set()
        self._is_abandoned = False
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[StorageError | None] = self._loop.create_future()

    def is_of(self, storage: object) -> bool:
        """Tell whether the transaction is one of this storage."""
        return self._storage is storage

    # -- what its owner asks ----------------------------------------------------------------------------

    async def begin(self) -> None:
        """Wait for the writer, and begin.

        Raises:
            StorageError: It can't begin. Nothing is held.
        """
        self.ended = self._thread.hold(self._serve)
        self.ended.add_done_callback(self._over)
        try:
            await self._begun
        except BaseException:
            self._abandon()
            raise

    async def execute(self, sql: str, parameters: Parameters) -> SqlResult:
        """Execute one statement of the activity's author."""

        def work(connection: sqlite3.Connection) -> SqlResult:
            bound = cast("tuple[Any, ...]", parameters)
            return self._guard.run(sql, lambda text: _result_of(connection.execute(text, bound)))

        return await self._submit(work)

    async def executemany(self, sql: str, rows: Sequence[Parameters]) -> SqlResult:
        """Execute one statement for each row, all or none."""

        def many(connection: sqlite3.Connection) -> SqlResult:
            bound = cast("Sequence[tuple[Any, ...]]", rows)
            return self._guard.run(sql, lambda text: _result_of(connection.executemany(text, bound)))

        return await self._submit(lambda connection: _whole(connection, many))

    async def run(self, work: TxWork[T]) -> T:
        """Do a part of what the storage does for everybody, within the transaction, whole or not at all.

        Raises:
            StorageError: The database refuses, or the transaction is over.
            Exception: What the callable raises; nothing of it is done.
        """

        def job(connection: sqlite3.Connection) -> T:
            return drive(work(SqliteTx(connection, self._storage.clock.now())))

        try:
            return await self._submit(lambda connection: _whole(connection, job))
        except sqlite3.Error as error:
            raise StorageError(f"{self._name}: {error}") from error

    async def commit(self, session: int, entry: Entry) -> Accepted | Rejected | Undone:
        """Write an entry and commit."""
        try:
            return await self._submit(lambda connection: self._commit(connection, session, entry), is_last=True)
        except _OverError as error:
            return Undone(error)

    async def rollback(self) -> None:
        """Undo everything and wait until it is undone."""
        self._abandon()
        await asyncio.wait([self.ended])

    def _abandon(self) -> None:
        self._is_abandoned = True
        self._jobs.put(None)

    async def _submit(self, work: Work[T], *, is_last: bool = False) -> T:
        if self.ended.done():
            raise self._why_over()
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        self._jobs.put(_Job(work, future, is_last))
        return await future

    def _over(self, ended: asyncio.Future[StorageError | None]) -> None:
        """Tell those who wait that nothing more is done; what the thread has answered came before."""
        error = ended.exception()
        if not self._begun.done():
            self._begun.set_exception(error or self._why_over())
            self._begun.exception()  # whoever waited may have been cancelled: it is no error that nobody looks at
        for future in self._pending:
            if not future.done():
                future.set_exception(self._why_over())

    def _why_over(self) -> _OverError:
        error = None if self.ended.exception() is not None else self.ended.result()
        return _OverError(str(error or f"{self._name}: the transaction of this activity has ended"))

    # -- in the thread ----------------------------------------------------------------------------------

    def _serve(self, connection: sqlite3.Connection) -> StorageError | None:
        """Begin, and do what is asked until it is over; return why, if nobody has asked for the end."""
        if self._is_abandoned:
            return None
        self._guard.install(connection)
        retry_while_busy(lambda: connection.execute("BEGIN IMMEDIATE"), self._lock_timeout)
        deadline = time.monotonic() + self._limit
        # A statement that takes too long is interrupted.
        connection.set_progress_handler(lambda: time.monotonic() >= deadline, _STEPS)
        try:
            self._answer(self._begun, Outcome(None, None))
            return self._serve_until(connection, deadline)
        finally:
            connection.set_progress_handler(None, 0)
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    def _serve_until(self, connection: sqlite3.Connection, deadline: float) -> StorageError | None:
        while (left := deadline - time.monotonic()) > 0:
            try:
                job = self._jobs.get(timeout=left)
            except queue.Empty:
                break
            if job is None:
                return None
            outcome = run(connection, job.work)
            if job.is_last:
                self._answer(job.future, outcome)
                return None
            if outcome.error is not None and time.monotonic() >= deadline:
                outcome = Outcome(None, self._late())
            self._answer(job.future, outcome)
            if not connection.in_transaction:
                return StorageError(f"{self._name}: the transaction of this activity was undone by: {outcome.error}")
        return self._late()

    def _late(self) -> StorageError:
        return StorageError(
            f"{self._name}: the transaction of this activity was open for longer than {self._limit:g} s "
            "(transaction_limit) and is rolled back: do what is slow before its first statement"
        )

    def _commit(self, connection: sqlite3.Connection, session: int, entry: Entry) -> Accepted | Rejected | Undone:
        """Write the entry and commit, or roll back; either way, the transaction is over."""
        connection.set_progress_handler(None, 0)
        tx = SqliteTx(connection, self._storage.clock.now())
        try:
            (answer,) = drive(sqlite_plain.commit(tx, session, [entry]))
            if isinstance(answer, Accepted):
                return self._confirm(connection, answer)
        except sqlite3.Error as error:
            answer = Refused(str(error))
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if isinstance(answer, Refused):
            return Undone(StorageError(f"{self._name}: the database refuses the activity's result: {answer.error}"))
        if drive(still_holds(tx, session, entry)):
            message = "an activity has ended or changed its own instance in its transaction: that can't be committed"
            return Undone(NonRetryableError(message))
        return answer

    def _confirm(self, connection: sqlite3.Connection, answer: Accepted) -> Accepted | Undone:
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:  # a constraint that is checked only now: certainly not committed
                return Undone(error)
            raise StorageError(f"{self._name}: {error}") from error
        return answer

    def _answer(self, future: asyncio.Future[Any], outcome: Outcome) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits
            self._loop.call_soon_threadsafe(_resolve, future, outcome)


def _resolve(future: asyncio.Future[Any], outcome: Outcome) -> None:
    if future.done():
        return
    if outcome.error is None:
        future.set_result(outcome.result)
    else:
        future.set_exception(outcome.error)


def _result_of(cursor: sqlite3.Cursor) -> SqlResult:
    with contextlib.closing(cursor):
        rows = cursor.fetchall()
        return SqlResult(rows, cursor.rowcount, cursor.lastrowid)


def _whole(connection: sqlite3.Connection, work: Work[T]) -> T:
    """Run a callable in a savepoint of its own, and raise what it raises."""
    outcome = run_in_savepoint(connection, work)
    if outcome.error is not None:
        raise outcome.error
    return cast("T", outcome.result)
