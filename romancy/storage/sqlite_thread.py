"""A thread that owns one `sqlite3` connection, and the transaction that its callers share."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import random
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from romancy.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
Work: TypeAlias = "Callable[[sqlite3.Connection], T]"

# Bounds the time for which one transaction keeps other processes from writing.
_MAX_BATCH = 1000
_FIRST_PAUSE = 0.0005
_LAST_PAUSE = 0.005
_PAUSE_GROWTH = 1.2
_PRIMARY_CODE = 0xFF
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


class Outcome(NamedTuple):
    """What a callable returned, or what it raised."""

    result: object
    error: BaseException | None


class _Job(NamedTuple):
    work: Work[Any]
    future: asyncio.Future[Any]
    is_write: bool
    is_alone: bool = False


_Answer: TypeAlias = "tuple[asyncio.Future[Any], Outcome]"
_NOTHING = Outcome(None, None)


def is_busy(error: sqlite3.Error) -> bool:
    """Say whether another connection holds what was asked for, so that trying again helps."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY_CODE in _BUSY


def retry_while_busy(attempt: Callable[[], T], limit: float) -> T:
    """Call ``attempt`` until nobody stands in the way, for at most ``limit`` seconds.

    The pauses start at 0.5 to 1 ms, grow slowly and are jittered: with SQLite's own busy handler, one of two
    processes that write without a break starves for seconds, with pauses that double, for half a second.

    Raises:
        sqlite3.OperationalError: The lock did not come free in time, or something else went wrong.
    """
    deadline = time.monotonic() + limit
    pause = _FIRST_PAUSE
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(pause * random.uniform(1, 2))
        pause = min(pause * _PAUSE_GROWTH, _LAST_PAUSE)


def transact(connection: sqlite3.Connection, works: Sequence[Work[object]], *, lock_timeout: float) -> list[Outcome]:
    """Run callables in one transaction, each of them whole or not at all.

    Atomic: what one callable raises undoes that callable alone. When the transaction itself can't begin or
    commit, or is undone by the database (a full disk), every outcome is that error.

    Returns:
        One outcome per callable, in order; those without an error are committed.
    """
    try:
        retry_while_busy(lambda: connection.execute("BEGIN IMMEDIATE"), lock_timeout)
        if len(works) == 1:
            outcomes = [run(connection, works[0])]
            if outcomes[0].error is not None:
                return outcomes
        else:
            outcomes = [run_in_savepoint(connection, work) for work in works]
        connection.execute("COMMIT")
    except BaseException as error:  # noqa: BLE001 - it belongs to the callers, and the thread must live on
        return [Outcome(None, error)] * len(works)
    else:
        return outcomes
    finally:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")


def run(connection: sqlite3.Connection, work: Work[object]) -> Outcome:
    """Call a callable and catch whatever it raises."""
    try:
        return Outcome(work(connection), None)
    except BaseException as error:  # noqa: BLE001 - likewise
        return Outcome(None, error)


def run_in_savepoint(connection: sqlite3.Connection, work: Work[object]) -> Outcome:
    """Call a callable within a transaction; what it raises is caught, and undoes the callable alone."""
    connection.execute("SAVEPOINT work")
    outcome = run(connection, work)
    if outcome.error is not None:
        if not connection.in_transaction:
            raise outcome.error
        connection.execute("ROLLBACK TO work")
    connection.execute("RELEASE work")
    return outcome


class SqliteThread:
    """Run callables on one connection, in a thread of its own.

    All writes that are queued at one moment share one transaction. A callable that was handed over is run,
    whether or not its caller is still waiting: a commit is never cancelled.

    Args:
        name: Names the database in errors, and the thread.
        connect: Opens the connection; called in the thread. The connection must be in autocommit mode.
        lock_timeout: For how many seconds to wait for other processes' transactions.
    """

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection], *, lock_timeout: float) -> None:
        self._name = name
        self._connect = connect
        self._lock_timeout = lock_timeout
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[object] | None = None
        self._is_closing = False

    async def open(self) -> None:
        """Start the thread and connect.

        Raises:
            StorageError: The database can't be opened. No thread is left.
        """
        if self._thread is not None:
            raise StorageError(f"{self._name}: the storage was opened before; make a new one")
        loop = asyncio.get_running_loop()
        opened = loop.create_future()
        self._ended = loop.create_future()
        # A daemon: a process whose author forgot `close` still ends, and what was committed is durable.
        self._thread = threading.Thread(
            target=self._serve, args=(opened, self._ended), name=f"romancy {self._name}", daemon=True
        )
        self._thread.start()
        try:
            await opened
        except BaseException:
            await self.close()
            raise

    async def write(self, work: Work[T]) -> T:
        """Run a callable in a transaction that it may share with others; return when it is committed.

        Raises:
            StorageError: The database refused or can't be reached; nothing is written.
            Exception: What the callable raises; nothing of it is written.
        """
        return await self._submit(work, is_write=True)

    async def read(self, work: Work[T]) -> T:
        """Run a callable outside of any transaction.

        Raises:
            StorageError: The database refused or can't be reached.
            Exception: What the callable raises.
        """
        return await self._submit(work, is_write=False)

    def hold(self, work: Work[T]) -> asyncio.Future[T]:
        """Have the thread to oneself: run a callable outside of any transaction, when what was queued before is done.

        It may take its time, and wait for more to do: until it returns, everything else that is handed over waits.

        Returns:
            What the callable returns or raises, a `StorageError` for the database's errors. Cancelling it does nothing.

        Raises:
            StorageError: The storage is not open.
        """
        return self._submit(work, is_write=False, is_alone=True)

    async def close(self) -> None:
        """Run what is queued, disconnect and end the thread. Safe to call twice."""
        if self._thread is None or self._ended is None:
            return
        if not self._is_closing:
            self._is_closing = True
            self._queue.put(None)
        await asyncio.shield(self._ended)
        self._thread.join()

    def _submit(self, work: Work[T], *, is_write: bool, is_alone: bool = False) -> asyncio.Future[T]:
        if self._thread is None or self._is_closing:
            raise StorageError(f"{self._name}: the storage is not open; call open() first")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Job(work, future, is_write, is_alone))
        return future

    def _serve(self, opened: asyncio.Future[object], ended: asyncio.Future[object]) -> None:
        try:
            connection = self._connect()
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever opens
            self._deliver([(opened, Outcome(None, error)), (ended, _NOTHING)])
            return
        self._deliver([(opened, _NOTHING)])
        try:
            while jobs := self._gather():
                alone = jobs.pop() if jobs[-1].is_alone else None
                self._deliver(self._run(connection, jobs))
                if alone is not None:
                    self._deliver([(alone.future, run(connection, alone.work))])
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            self._deliver([(ended, _NOTHING)])

    def _gather(self) -> list[_Job]:
        """Wait for a job and take what else is queued, up to one that is to run alone; empty when it is time to end."""
        jobs: list[_Job] = []
        with contextlib.suppress(queue.Empty):
            while len(jobs) < _MAX_BATCH:
                job = self._queue.get(block=not jobs)
                if job is None:
                    if jobs:
                        self._queue.put(None)
                    break
                jobs.append(job)
                if job.is_alone:
                    break
        return jobs

    def _run(self, connection: sqlite3.Connection, jobs: list[_Job]) -> list[_Answer]:
        # Reads first: waiting for the write lock must not hold them up.
        reads = [job for job in jobs if not job.is_write]
        answers = [(job.future, run(connection, job.work)) for job in reads]
        if answers:
            self._deliver(answers)
        writes = [job for job in jobs if job.is_write]
        if not writes:
            return []
        works = [job.work for job in writes]
        outcomes = transact(connection, works, lock_timeout=self._lock_timeout)
        return [(job.future, outcome) for job, outcome in zip(writes, outcomes, strict=True)]

    def _deliver(self, answers: list[_Answer]) -> None:
        """Wake the callers, with one call per event loop; an event loop that is closed has none."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for answer in answers:
            by_loop.setdefault(answer[0].get_loop(), []).append(answer)
        for loop, its in by_loop.items():
            with contextlib.suppress(Exception):  # whoever waits there is gone; the thread must live on
                loop.call_soon_threadsafe(self._resolve, its)

    def _resolve(self, answers: list[_Answer]) -> None:
        for future, (result, error) in answers:
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, sqlite3.Error):
                failure = StorageError(f"{self._name}: {self._explain(error)}")
                failure.__cause__ = error
                future.set_exception(failure)
            else:
                future.set_exception(error)

    def _explain(self, error: sqlite3.Error) -> str:
        if not is_busy(error):
            return str(error)
        return f"another process has kept it locked for {self._lock_timeout:g} s ({error})"
