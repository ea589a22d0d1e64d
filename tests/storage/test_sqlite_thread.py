"""The thread that owns a connection: shared transactions, failures, cancellation, its end."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from romancy.core.clock import ManualClock
from romancy.errors import StorageError
from romancy.storage.sqlite import SqliteStorage
from romancy.storage.sqlite_thread import SqliteThread
from romancy.testing.storage_suite.making import Worker

pytestmark = pytest.mark.anyio

LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


class Gate:
    """Keep the thread busy until the gate is opened, so that what is queued meanwhile is one batch."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> None:
        assert self._open.wait(10)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "thread.db"


@pytest.fixture
async def thread(anyio_backend: str, path: Path) -> AsyncIterator[SqliteThread]:
    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        connection.execute("CREATE TABLE t (n INTEGER UNIQUE)")
        return connection

    thread = SqliteThread("thread.db", connect, lock_timeout=0.05)
    await thread.open()
    yield thread
    await thread.close()


def put(number: int) -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?)", (number,))
        return number

    return work


def put_and_raise(number: int, error: BaseException) -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        put(number)(connection)
        raise error

    return work


def numbers(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    found = [n for (n,) in connection.execute("SELECT n FROM t ORDER BY n")]
    connection.close()
    return found


async def batch(thread: SqliteThread, *works: Callable[[sqlite3.Connection], object]) -> list[object | BaseException]:
    """Run callables in one batch."""
    gate = Gate()
    first = asyncio.ensure_future(thread.read(gate))
    waiting = [asyncio.ensure_future(thread.write(work)) for work in works]
    await asyncio.sleep(0)
    gate.open()
    await first
    return await asyncio.gather(*waiting, return_exceptions=True)


async def test_write_is_committed_when_it_returns(thread: SqliteThread, path: Path) -> None:
    assert await thread.write(put(1)) == 1
    assert numbers(path) == [1]


async def test_writes_that_wait_share_one_transaction(thread: SqliteThread, path: Path) -> None:
    began: list[bool] = []

    def work(connection: sqlite3.Connection) -> list[int]:
        began.append(connection.in_transaction)
        # What another connection sees is committed: nothing of this batch is.
        return numbers(path)

    assert await batch(thread, put(1), work, put(2), work) == [1, [], 2, []]
    assert began == [True, True]
    assert numbers(path) == [1, 2]


async def test_writes_run_in_the_order_in_which_they_were_handed_over(thread: SqliteThread) -> None:
    order: list[int] = []

    def note(number: int) -> Callable[[sqlite3.Connection], None]:
        return lambda _: order.append(number)

    await batch(thread, *(note(n) for n in range(50)))
    assert order == list(range(50))


async def test_results_of_a_batch_come_back_together(thread: SqliteThread, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    calls: list[object] = []
    call_soon_threadsafe = loop.call_soon_threadsafe

    def count(*args: Any, **options: Any) -> asyncio.Handle:
        calls.append(args)
        return call_soon_threadsafe(*args, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    assert await batch(thread, *(put(n) for n in range(20))) == list(range(20))
    assert len(calls) == 2  # one for the read that kept the thread busy, one for the transaction


async def test_read_is_outside_of_any_transaction(thread: SqliteThread) -> None:
    assert not await thread.read(lambda c: c.in_transaction)


async def test_exception_rolls_back_alone(thread: SqliteThread, path: Path) -> None:
    error = ZeroDivisionError("mine")
    assert await batch(thread, put(1), put_and_raise(2, error), put(3)) == [1, error, 3]
    assert numbers(path) == [1, 3]


async def test_exception_rolls_back_when_nothing_else_is_queued(thread: SqliteThread, path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.write(put_and_raise(1, ZeroDivisionError()))
    assert numbers(path) == []
    assert await thread.write(put(2)) == 2


async def test_base_exceptions_reach_their_caller_and_the_thread_goes_on(thread: SqliteThread, path: Path) -> None:
    error = asyncio.CancelledError()
    one, other = await batch(thread, put_and_raise(1, error), put(2))
    assert isinstance(one, asyncio.CancelledError)
    assert (other, numbers(path)) == (2, [2])


async def test_sqlite_errors_become_storage_errors_that_name_the_database(thread: SqliteThread) -> None:
    results = await batch(thread, put(1), put(1), put(2))
    assert (results[0], results[2]) == (1, 2)
    assert isinstance(results[1], StorageError)
    assert "thread.db" in str(results[1])
    assert isinstance(results[1].__cause__, sqlite3.IntegrityError)


async def test_failing_commit_reaches_all(thread: SqliteThread, path: Path) -> None:
    def defer(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("CREATE TABLE child (n REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)")

    await thread.read(defer)
    violate: Callable[[sqlite3.Connection], object] = lambda c: c.execute(  # noqa: E731
        "INSERT INTO child VALUES (99)"
    ).close()
    results = await batch(thread, put(1), violate, put(2))
    assert [type(result) for result in results] == [StorageError] * 3
    assert len({id(result) for result in results}) == 3
    assert numbers(path) == []
    assert await thread.write(put(3)) == 3


async def test_transaction_that_the_database_undoes_reaches_all(thread: SqliteThread, path: Path) -> None:
    def undo(connection: sqlite3.Connection) -> None:
        # What SQLite itself does when the disk is full.
        connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    results = await batch(thread, put(1), undo, put(2))
    assert [type(result) for result in results] == [StorageError] * 3
    assert numbers(path) == []
    assert await thread.write(put(3)) == 3


async def test_cancelled_caller_does_not_cancel_the_write(thread: SqliteThread, path: Path) -> None:
    gate = Gate()
    first = asyncio.ensure_future(thread.read(gate))
    cancelled = asyncio.ensure_future(thread.write(put(1)))
    failing = asyncio.ensure_future(thread.write(put_and_raise(2, ZeroDivisionError())))
    await asyncio.sleep(0)
    cancelled.cancel()
    failing.cancel()
    for task in (cancelled, failing):
        with pytest.raises(asyncio.CancelledError):
            await task
    gate.open()
    await first
    assert await thread.write(put(3)) == 3
    assert numbers(path) == [1, 3]


async def test_close_runs_what_is_queued_and_leaves_no_thread(thread: SqliteThread, path: Path) -> None:
    before = threading.active_count()
    writes = [asyncio.ensure_future(thread.write(put(n))) for n in range(5)]
    await asyncio.sleep(0)
    await asyncio.gather(thread.close(), thread.close())
    assert threading.active_count() == before - 1
    assert await asyncio.gather(*writes) == list(range(5))
    assert numbers(path) == list(range(5))
    await thread.close()
    with pytest.raises(StorageError, match=r"thread\.db.*open"):
        await thread.write(put(9))


async def test_use_before_open_is_refused() -> None:
    thread = SqliteThread("x", lambda: sqlite3.connect(":memory:"), lock_timeout=1)
    with pytest.raises(StorageError, match="open"):
        await thread.write(put(1))
    await thread.close()


async def test_open_that_fails_leaves_no_thread() -> None:
    def connect() -> sqlite3.Connection:
        raise StorageError("no")

    before = threading.active_count()
    thread = SqliteThread("x", connect, lock_timeout=1)
    with pytest.raises(StorageError, match="no"):
        await thread.open()
    assert threading.active_count() == before
    await thread.close()


async def test_open_that_is_cancelled_leaves_no_thread() -> None:
    gate = Gate()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(":memory:")
        gate(connection)
        return connection

    before = threading.active_count()
    opening = asyncio.ensure_future(SqliteThread("x", connect, lock_timeout=1).open())
    await asyncio.sleep(0)
    opening.cancel()
    asyncio.get_running_loop().call_later(0.01, gate.open)
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert threading.active_count() == before


def test_answers_for_a_closed_event_loop_are_dropped(path: Path) -> None:
    gate = Gate()
    thread = SqliteThread("x", lambda: sqlite3.connect(path, isolation_level=None), lock_timeout=1)

    async def leave() -> None:
        await thread.open()
        asyncio.ensure_future(thread.read(gate)).cancel()
        task = asyncio.ensure_future(thread.write(lambda c: c.execute("CREATE TABLE t (n)").close()))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    gate.open()

    async def close() -> None:
        assert thread._thread is not None
        thread._queue.put(None)
        await asyncio.to_thread(thread._thread.join)

    asyncio.run(close())
    assert numbers(path) == []


def test_process_ends_though_the_storage_was_never_closed(path: Path) -> None:
    code = """
import asyncio, sys
from romancy.core.records import NewInstance
from romancy.storage.sqlite import SqliteStorage

async def main():
    global storage
    storage = SqliteStorage(sys.argv[1])
    await storage.open()
    await storage.create(NewInstance("x", 1, "w", "1", b"", 0))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], timeout=20, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT id FROM instances").fetchall() == [("x",)]
    connection.close()


class TestBusy:
    async def test_write_waits_for_another_process_within_bounds(self, path: Path, clock: ManualClock) -> None:
        storage = SqliteStorage(path, clock=clock, lock_timeout=timedelta(seconds=0.2))
        await storage.open()
        worker = await Worker.start(storage, clock)
        locker = subprocess.Popen(
            [sys.executable, "-c", LOCKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert locker.stdout is not None
        assert await asyncio.to_thread(locker.stdout.readline) == b"locked\n"
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(StorageError, match=r"thread\.db.*another process"):
            await worker.create("x")
        assert 0.2 <= loop.time() - began < 2
        # Reading goes on all the while.
        assert await storage.get("x") is None
        waiting = asyncio.ensure_future(worker.create("x"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        locker.communicate()
        assert (await waiting).id == "x"
        await storage.close()

    async def test_all_writes_that_wait_hear_of_it(self, thread: SqliteThread, path: Path) -> None:
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        results = await batch(thread, put(1), put(2))
        assert [type(result) for result in results] == [StorageError] * 2
        locker.execute("ROLLBACK")
        assert await batch(thread, put(1), put(2)) == [1, 2]
        locker.close()
