"""Transactions of activities: what they keep from others, what they commit, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from datetime import timedelta
from typing import Any

import pytest

from romancy.activities.transaction import current_scope
from romancy.core.clock import ManualClock
from romancy.core.events import Event, EventKind
from romancy.core.records import Accepted, Rejected, Undone
from romancy.errors import NonRetryableError, SessionLostError, StorageError
from romancy.storage.protocol import Storage, Transaction
from romancy.storage.sqlite import SqliteStorage

from .making import Worker, note

pytestmark = pytest.mark.anyio

_LONG = timedelta(seconds=20)


class Body:
    """A scope with a transaction that has begun."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.is_asked = True
        self.joined: object | None = None
        self.after_commit: list[Callable[[], None]] = []
        self.transaction: Transaction

    async def open(self, limit: timedelta = _LONG) -> Transaction:
        self.transaction = await self._storage.transaction(self, limit=limit)
        return self.transaction

    async def begin(self) -> Transaction:
        return self.transaction

    def is_on(self, storage: object) -> bool:
        return storage is self._storage

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Do something as a task of the body."""
        context = Context()
        context.run(current_scope.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)


async def make_table(storage: Storage) -> None:
    assert isinstance(storage, SqliteStorage)
    await storage._writer.write(lambda c: c.execute("CREATE TABLE mine (x UNIQUE)"))


async def rows(storage: Storage) -> list[Any]:
    assert isinstance(storage, SqliteStorage)
    return await storage._reader.read(lambda c: [x for (x,) in c.execute("SELECT x FROM mine ORDER BY x")])


async def test_commit_makes_statements_and_entry_durable_together(worker: Worker, storage: Storage) -> None:
    await make_table(storage)
    one = await worker.own()
    transaction = await Body(storage).open()
    await transaction.execute("INSERT INTO mine VALUES (?)", (1,))
    assert await transaction.commit(worker.session, worker.entry(one, note(), undrained=1)) == Accepted([])
    assert await transaction.ended is None
    assert await rows(storage) == [1]
    assert await storage.history(one.key) == [
        Event(0, 1, worker.clock.now(), EventKind.ACTIVITY_COMPLETED, "1:charge", b"{}")
    ]
    after = await worker.read(one.id)
    assert (after.next_seq, after.drained_seq) == (1, 0)


async def test_rollback_undoes_everything_and_lets_others_write(worker: Worker, storage: Storage) -> None:
    await make_table(storage)
    body = Body(storage)
    transaction = await body.open()
    await transaction.execute("INSERT INTO mine VALUES (1)", ())
    await body.spawn(storage.create(worker.new("new")))
    await transaction.rollback()
    await transaction.rollback()
    assert await rows(storage) == []
    assert await storage.get("new") is None
    await worker.create("new")


async def test_entry_that_does_not_hold_rolls_everything_back(worker: Worker, storage: Storage) -> None:
    await make_table(storage)
    one = await worker.own()
    entry = worker.entry(one, note())
    await worker.advance(one, note("9:other"))
    transaction = await Body(storage).open()
    await transaction.execute("INSERT INTO mine VALUES (1)", ())
    assert isinstance(await transaction.commit(worker.session, entry), Rejected)
    assert await rows(storage) == []
    assert len(await storage.history(one.key)) == 1


async def test_dead_session_commits_nothing(worker: Worker, storage: Storage, clock: ManualClock) -> None:
    await make_table(storage)
    one = await worker.own()
    transaction = await Body(storage).open()
    await transaction.execute("INSERT INTO mine VALUES (1)", ())
    clock.advance(60)
    with pytest.raises(SessionLostError):
        await transaction.commit(worker.session, worker.entry(one, note()))
    assert await rows(storage) == []
    assert await storage.history(one.key) == []


async def test_entry_that_the_database_refuses_rolls_everything_back(worker: Worker, storage: Storage) -> None:
    await make_table(storage)
    one = await worker.own()
    transaction = await Body(storage).open()
    await transaction.execute("INSERT INTO mine VALUES (1)", ())
    answer = await transaction.commit(worker.session, worker.entry(one, note("\ud800")))
    assert isinstance(answer, Undone)
    assert "refuses the activity's result" in str(answer.error)
    assert await rows(storage) == []


async def test_transaction_ends_by_itself_when_its_limit_has_passed(worker: Worker, storage: Storage) -> None:
    await make_table(storage)
    one = await worker.own()
    transaction = await Body(storage).open(timedelta(milliseconds=20))
    await transaction.execute("INSERT INTO mine VALUES (1)", ())
    error = await transaction.ended
    assert isinstance(error, StorageError)
    assert "longer than 0.02 s" in str(error)
    with pytest.raises(StorageError, match="longer than"):
        await transaction.execute("INSERT INTO mine VALUES (2)", ())
    answer = await transaction.commit(worker.session, worker.entry(one, note()))
    assert isinstance(answer, Undone)
    assert await rows(storage) == []
    await transaction.rollback()


async def test_calls_of_other_tasks_wait_and_are_no_part_of_it(worker: Worker, storage: Storage) -> None:
    transaction = await Body(storage).open()
    creating = asyncio.create_task(worker.create("other"))
    await transaction.execute("SELECT 1", ())  # by then the writer would have come to it, had it not been held
    await transaction.execute("SELECT 1", ())
    assert not creating.done()
    await transaction.rollback()
    assert (await creating).id == "other"


async def test_joined_call_that_fails_is_undone_alone(worker: Worker, storage: Storage) -> None:
    one = await worker.own("one")
    body = Body(storage)
    transaction = await body.open()
    await body.spawn(storage.create(worker.new("new")))
    with pytest.raises(Exception, match="'one' exists already"):
        await body.spawn(storage.create(worker.new("one")))
    assert await body.spawn(storage.get("new")) is not None
    await transaction.commit(worker.session, worker.entry(one, note()))
    assert await storage.get("new") is not None


async def test_call_that_is_cancelled_leaves_the_transaction_usable(worker: Worker, storage: Storage) -> None:
    await make_table(storage)
    one = await worker.own()
    transaction = await Body(storage).open()
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT count(*) FROM n"
    cancelled = asyncio.create_task(transaction.execute(slow, ()))
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
    await transaction.execute("INSERT INTO mine VALUES (1)", ())
    assert await transaction.commit(worker.session, worker.entry(one, note())) == Accepted([])
    assert await rows(storage) == [1]


async def test_begin_that_is_cancelled_holds_nothing(worker: Worker, storage: Storage) -> None:
    await worker.create("before")
    opening = asyncio.create_task(Body(storage).open())
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    await worker.create("after")


async def test_transaction_of_another_process_is_waited_for(workers: tuple[Worker, Worker]) -> None:
    one, other = workers
    await make_table(one.storage)
    owned = await one.own()
    first = await Body(one.storage).open()
    await first.execute("INSERT INTO mine VALUES (1)", ())
    opening = asyncio.create_task(Body(other.storage).open())
    await first.commit(one.session, one.entry(owned, note()))
    second = await opening
    assert (await second.execute("SELECT x FROM mine", ())).rows == [(1,)]
    await second.rollback()


async def test_closing_the_storage_waits_for_the_transaction(storage: Storage) -> None:
    transaction = await Body(storage).open(timedelta(milliseconds=20))
    await storage.close()
    assert transaction.ended.done()


async def test_refused_statement_has_done_nothing(worker: Worker, storage: Storage) -> None:
    one = await worker.own()
    transaction = await Body(storage).open()
    for statement in ("DELETE FROM instances", "COMMIT", "ROLLBACK"):
        with pytest.raises(NonRetryableError):
            await transaction.execute(statement, ())
    assert await transaction.commit(worker.session, worker.entry(one, note())) == Accepted([])
