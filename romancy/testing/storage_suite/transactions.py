"""Transactions of activities: what they keep from others, what they commit, how they end."""

from __future__ import annotations

import asyncio
from contextvars import Context
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from romancy.activities.transaction import current_scope
from romancy.core.events import Event, EventKind
from romancy.core.records import Accepted, Rejected, Undone
from romancy.errors import InstanceAlreadyExistsError, NonRetryableError, SessionLostError, StorageError
from romancy.testing.storage_suite.making import Worker, note, outlive
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from collections.abc import Callable

    from romancy.storage.protocol import Storage, Transaction
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

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


async def make_table(database: Database) -> None:
    """Make a table of an author's own."""
    await database.execute("CREATE TABLE mine (x INTEGER UNIQUE)")


async def rows(database: Database) -> list[Any]:
    """Return what is committed in the author's table."""
    return [x for (x,) in await database.execute("SELECT x FROM mine ORDER BY x")]


class TransactionsSuite(Suite):
    """An activity's own statements are committed with its result, or not at all."""

    async def test_commit_makes_statements_and_entry_durable_together(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        await make_table(database)
        one = await worker.own()
        transaction = await Body(storage).open()
        await transaction.execute(f"INSERT INTO mine VALUES ({database.parameter})", (1,))
        entry = worker.entry(one, note(), undrained=1)
        assert await transaction.commit(worker.session, entry) == Accepted([])
        assert await transaction.ended is None
        assert await rows(database) == [1]
        assert await storage.history(one.key) == [
            Event(0, 1, entry.stamp, EventKind.ACTIVITY_COMPLETED, "1:charge", b"{}")
        ]
        after = await worker.read(one.id)
        assert (after.next_seq, after.drained_seq) == (1, 0)

    async def test_rollback_undoes_everything_and_lets_others_write(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        await make_table(database)
        body = Body(storage)
        transaction = await body.open()
        await transaction.execute("INSERT INTO mine VALUES (1)", ())
        await body.spawn(storage.create(worker.new("new")))
        await transaction.rollback()
        await transaction.rollback()
        assert await rows(database) == []
        assert await storage.get("new") is None
        await worker.create("new")

    async def test_entry_that_does_not_hold_rolls_everything_back(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        await make_table(database)
        one = await worker.own()
        entry = worker.entry(one, note())
        await worker.advance(one, note("9:other"))
        transaction = await Body(storage).open()
        await transaction.execute("INSERT INTO mine VALUES (1)", ())
        assert isinstance(await transaction.commit(worker.session, entry), Rejected)
        assert await rows(database) == []
        assert len(await storage.history(one.key)) == 1

    async def test_dead_session_commits_nothing(
        self, worker: Worker, storage: Storage, clock: AdjustableClock, database: Database
    ) -> None:
        await make_table(database)
        one = await worker.own()
        transaction = await Body(storage).open()
        await transaction.execute("INSERT INTO mine VALUES (1)", ())
        outlive(clock)
        with pytest.raises(SessionLostError):
            await transaction.commit(worker.session, worker.entry(one, note()))
        assert await rows(database) == []
        assert await storage.history(one.key) == []

    async def test_entry_that_the_database_refuses_rolls_everything_back(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        await make_table(database)
        one = await worker.own()
        transaction = await Body(storage).open()
        await transaction.execute("INSERT INTO mine VALUES (1)", ())
        answer = await transaction.commit(worker.session, worker.entry(one, note("\ud800")))
        assert isinstance(answer, Undone)
        assert await rows(database) == []

    async def test_transaction_ends_by_itself_when_its_limit_has_passed(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        await make_table(database)
        one = await worker.own()
        transaction = await Body(storage).open(timedelta(milliseconds=20))
        await transaction.execute("INSERT INTO mine VALUES (1)", ())
        error = await transaction.ended
        assert isinstance(error, StorageError)
        with pytest.raises(StorageError):
            await transaction.execute("INSERT INTO mine VALUES (2)", ())
        answer = await transaction.commit(worker.session, worker.entry(one, note()))
        assert isinstance(answer, Undone)
        assert await rows(database) == []
        await transaction.rollback()

    async def test_calls_of_other_tasks_are_no_part_of_it(self, worker: Worker, storage: Storage) -> None:
        """They may have to wait, but not to begin: what is rolled back takes nothing of theirs with it."""
        transaction = await Body(storage).open()
        creating = asyncio.create_task(worker.create("other"))
        await transaction.execute("SELECT 1", ())
        await transaction.execute("SELECT 1", ())
        await transaction.rollback()
        assert (await creating).id == "other"
        assert (await worker.read("other")).id == "other"

    async def test_statement_that_fails_is_undone_alone(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        await make_table(database)
        one = await worker.own()
        transaction = await Body(storage).open()
        await transaction.execute("INSERT INTO mine VALUES (1)", ())
        with pytest.raises(Exception):  # noqa: B017, PT011 - the driver's own, whichever that is
            await transaction.execute("INSERT INTO mine VALUES (2), (1)", ())
        insert = f"INSERT INTO mine VALUES ({database.parameter})"
        with pytest.raises(Exception):  # noqa: B017, PT011
            await transaction.executemany(insert, [(3,), (1,)])
        assert (await transaction.executemany(insert, [(4,), (5,)])).rowcount == 2
        await transaction.commit(worker.session, worker.entry(one, note()))
        assert await rows(database) == [1, 4, 5]

    async def test_statement_tells_what_it_has_come_to(self, storage: Storage, database: Database) -> None:
        await make_table(database)
        transaction = await Body(storage).open()
        assert (await transaction.execute("INSERT INTO mine VALUES (1), (2), (3)", ())).rowcount == 3
        assert (await transaction.execute("UPDATE mine SET x = x + 10 WHERE x < 3", ())).rowcount == 2
        assert (await transaction.execute("SELECT x FROM mine ORDER BY x", ())).rows == [(3,), (11,), (12,)]
        assert (await transaction.execute("DELETE FROM mine WHERE x = 3 RETURNING x", ())).rows == [(3,)]
        await transaction.rollback()

    async def test_joined_call_that_fails_is_undone_alone(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own("one")
        body = Body(storage)
        transaction = await body.open()
        await body.spawn(storage.create(worker.new("new")))
        with pytest.raises(InstanceAlreadyExistsError):
            await body.spawn(storage.create(worker.new("one")))
        assert await body.spawn(storage.get("new")) is not None
        await transaction.commit(worker.session, worker.entry(one, note()))
        assert await storage.get("new") is not None

    async def test_call_that_is_cancelled_leaves_the_transaction_usable(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        await make_table(database)
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
        assert await rows(database) == [1]

    async def test_begin_that_is_cancelled_holds_nothing(self, worker: Worker, storage: Storage) -> None:
        await worker.create("before")
        opening = asyncio.create_task(Body(storage).open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        await worker.create("after")

    async def test_closing_the_storage_waits_for_the_transaction(self, storage: Storage) -> None:
        transaction = await Body(storage).open(timedelta(milliseconds=20))
        await storage.close()
        assert transaction.ended.done()

    async def test_refused_statement_has_done_nothing(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own()
        transaction = await Body(storage).open()
        for statement in ("DELETE FROM instances", "COMMIT", "ROLLBACK"):
            with pytest.raises(NonRetryableError):
                await transaction.execute(statement, ())
        assert await transaction.commit(worker.session, worker.entry(one, note())) == Accepted([])
