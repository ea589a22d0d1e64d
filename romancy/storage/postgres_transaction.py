"""A connection for one activity: its statements, and the entry that records its result, in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import asyncpg

from romancy.activities.transaction import SqlResult
from romancy.core.records import Accepted, Refused, Undone
from romancy.errors import NonRetryableError, SessionLostError, StorageError
from romancy.storage import commit, postgres_guard
from romancy.storage.postgres_connections import unreachable
from romancy.storage.postgres_errors import CONTENDED, RAISED, is_lost
from romancy.storage.postgres_guest import GuestTx, Prepared
from romancy.storage.postgres_transactions import TryAgainError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from romancy.activities.transaction import Parameters
    from romancy.core.records import Entry, Rejected
    from romancy.storage.postgres import PostgresStorage
    from romancy.storage.sql_storage import Work

T = TypeVar("T")

# In seconds.
_CONTENTION_LIMIT = 2.0
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05
_ROLLBACK_LIMIT = 2.0


class _OverError(StorageError):
    """The transaction was over before what was asked of it."""


class Guest(NamedTuple):
    """A connection that an author's statements may use: with its own settings, and instants as asyncpg makes them."""

    connection: asyncpg.Connection[Any]
    prepared: Prepared


class PostgresTransaction:
    """Serve one activity with a connection of its own, until it ends or its limit has passed.

    Implements `romancy.storage.protocol.Transaction`. What the engine does in it waits for no lock, since the author's
    statements may hold others: where somebody stands in the way it tries again for a while, and then gives up. The
    limit holds whatever the process does: the server keeps it too.

    Args:
        storage: Whose transaction it is.
        limit: Seconds for which the transaction may be open.
        give_back: Takes the connection in the end, and whether it can be used again.
    """

    def __init__(
        self,
        storage: PostgresStorage,
        *,
        limit: float,
        give_back: Callable[[Guest, bool], None],
    ) -> None:
        self._storage = storage
        self._settings = storage.settings
        self._limit = limit
        self._give_back = give_back
        self._guest: Guest | None = None
        self._search_path = ""
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[StorageError | None] = asyncio.get_running_loop().create_future()

    def is_of(self, storage: object) -> bool:
        """Tell whether the transaction is one of this storage."""
        return self._storage is storage

    # -- what its owner asks ----------------------------------------------------------------------------

    async def begin(self, guest: Guest) -> None:
        """Begin on a connection, which the transaction has to itself from now on.

        Raises:
            StorageError: It can't begin; the connection is given back.
        """
        self._guest = guest
        milliseconds = max(round(self._limit * 1000), 1)
        names = ("idle_in_transaction_session_timeout", "statement_timeout")
        limits = "; ".join(f"SET LOCAL {name} = {milliseconds}" for name in names)
        self._timer = asyncio.get_running_loop().call_later(self._limit, self._expire)
        try:
            await guest.connection.execute(f"BEGIN; {limits}")
            self._search_path = await guest.connection.fetchval("SHOW search_path") or "''"
        except BaseException as error:
            self._end(None, is_sound=False)
            if isinstance(error, RAISED):
                raise unreachable(self._settings.name, error) from error
            raise

    async def execute(self, sql: str, parameters: Parameters) -> SqlResult:
        """Execute one statement of the activity's author."""
        return (await self._author_s(sql, [parameters]))[0]

    async def executemany(self, sql: str, rows: Sequence[Parameters]) -> SqlResult:
        """Execute one statement for each row, all or none."""
        results = await self._author_s(sql, rows)
        return SqlResult([], sum(result.rowcount for result in results), None)

    async def run(self, work: Work[T]) -> T:
        """Do a part of what the storage does for everybody, within the transaction, whole or not at all.

        Raises:
            StorageError: The database refuses, others are in the way, or the transaction is over.
            Exception: What the callable raises; nothing of it is done.
        """

        async def job(guest: Guest) -> T:
            try:
                return await self._engine_s(guest, work)
            except RAISED as error:
                raise unreachable(self._settings.name, error) from error

        return await self._submit(job)

    async def commit(self, session: int, entry: Entry) -> Accepted | Rejected | Undone:
        """Write an entry and commit."""
        try:
            return await self._submit(lambda guest: self._commit(guest, session, entry))
        except _OverError as error:
            return Undone(error)

    async def rollback(self) -> None:
        """Undo everything and wait until it is undone."""

        async def job(guest: Guest) -> None:
            await self._undo(guest)

        with contextlib.suppress(_OverError):
            await self._submit(job)

    # -- how it is done ---------------------------------------------------------------------------------

    async def _submit(self, job: Callable[[Guest], Coroutine[Any, Any, T]]) -> T:
        """Do something in a task that goes on if the caller is cancelled, after what was handed over before."""

        async def in_turn() -> T:
            async with self._turn:
                guest = self._guest
                if guest is None or self.ended.done():
                    raise self._why_over()
                try:
                    return await job(guest)
                except Exception as error:
                    if self.ended.done() and self.ended.result() is not None:
                        raise self._why_over() from error
                    if _is_unsound(guest.connection, error):
                        self._end(unreachable(self._settings.name, error), is_sound=False)
                    raise

        task = asyncio.get_running_loop().create_task(in_turn())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may have been cancelled: it is no error that nobody looks at

    async def _author_s(self, sql: str, rows: Sequence[Parameters]) -> list[SqlResult]:
        async def job(guest: Guest) -> list[SqlResult]:
            connection = guest.connection
            await postgres_guard.check(connection, sql, self._settings.schema)
            if postgres_guard.is_savepoint(sql):
                return [SqlResult([], -1, None) for _ in [await connection.execute(sql)]]
            return await self._in_savepoint(connection, lambda: _results(connection, sql, rows))

        return await self._submit(job)

    async def _engine_s(self, guest: Guest, work: Work[T]) -> T:
        """Do something of the engine's, where its tables are, and again while others are in the way."""
        connection = guest.connection
        until = asyncio.get_running_loop().time() + _CONTENTION_LIMIT
        pause = _FIRST_PAUSE

        async def attempt() -> T:
            await connection.execute(f'SET LOCAL search_path = "{self._settings.schema}"')
            result = await work(GuestTx(guest.prepared, connection, *self._storage.present()))
            await connection.execute(f"SET LOCAL search_path = {self._search_path}")
            return result

        while True:
            try:
                return await self._in_savepoint(connection, attempt)
            except (TryAgainError, *CONTENDED) as error:
                if asyncio.get_running_loop().time() >= until:
                    raise StorageError(
                        f"{self._settings.name}: others kept for {_CONTENTION_LIMIT:g} s what this activity's"
                        " transaction needs; it is rolled back"
                    ) from error
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _in_savepoint(self, connection: asyncpg.Connection[Any], work: Callable[[], Awaitable[T]]) -> T:
        """Do a part of the transaction; whatever it raises undoes that part alone."""
        await connection.execute("SAVEPOINT romancy_part")
        try:
            result = await work()
        except BaseException:
            if not connection.is_closed():
                await connection.execute("ROLLBACK TO SAVEPOINT romancy_part; RELEASE SAVEPOINT romancy_part")
            raise
        await connection.execute("RELEASE SAVEPOINT romancy_part")
        return result

    async def _commit(self, guest: Guest, session: int, entry: Entry) -> Accepted | Rejected | Undone:
        """Write the entry and commit, or roll back; either way, the transaction is over."""
        try:
            (answer,) = await self._engine_s(guest, lambda tx: commit.commit(tx, session, [entry]))
            if isinstance(answer, Accepted):
                return await self._confirm(guest, answer)
            if isinstance(answer, Refused):
                error = StorageError(
                    f"{self._settings.name}: the database refuses the activity's result: {answer.error}"
                )
                return Undone(error)
            await guest.connection.execute("ROLLBACK; BEGIN")
            if await self._engine_s(guest, lambda tx: commit.still_holds(tx, session, entry)):
                message = (
                    "an activity has ended or changed its own instance in its transaction: that can't be committed"
                )
                return Undone(NonRetryableError(message))
            return answer
        except SessionLostError:
            raise
        except (StorageError, *RAISED) as error:
            if not self.ended.done() and not is_lost(error) and not guest.connection.is_closed():
                return Undone(error)
            raise
        finally:
            if not self.ended.done():
                await self._undo(guest)

    async def _confirm(self, guest: Guest, answer: Accepted) -> Accepted | Undone:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await guest.connection.execute("COMMIT")
        except RAISED as error:
            if not is_lost(error):  # a constraint that is checked only now: certainly not committed
                return Undone(error)
            self._end(None, is_sound=False)
            raise unreachable(self._settings.name, error) from error
        self._end(None, is_sound=True)
        return answer

    async def _undo(self, guest: Guest) -> None:
        is_sound = False
        with contextlib.suppress(*RAISED):
            async with asyncio.timeout(_ROLLBACK_LIMIT):
                await guest.connection.execute("ROLLBACK")
            is_sound = True
        self._end(None, is_sound=is_sound)

    def _expire(self) -> None:
        self._end(
            StorageError(
                f"{self._settings.name}: the transaction of this activity was open for longer than {self._limit:g} s "
                "(transaction_limit) and is rolled back: do what is slow before its first statement"
            ),
            is_sound=False,
        )

    def _end(self, error: StorageError | None, *, is_sound: bool) -> None:
        """Note that the transaction is over; a connection that is not sound is cut, and the server rolls back."""
        guest, self._guest = self._guest, None
        if self._timer is not None:
            self._timer.cancel()
        if guest is not None:
            if not is_sound:
                guest.connection.terminate()
            self._give_back(guest, is_sound)
        if not self.ended.done():
            self.ended.set_result(error)

    def _why_over(self) -> _OverError:
        error = self.ended.result() if self.ended.done() else None
        return _OverError(str(error or f"{self._settings.name}: the transaction of this activity has ended"))


def _is_unsound(connection: asyncpg.Connection[Any], error: Exception) -> bool:
    """Say whether a connection is of no use after an error; of what asyncpg says of a wrong call it knows nothing."""
    if isinstance(error, asyncpg.InterfaceError):
        return connection.is_closed()
    return is_lost(error) or (error.__cause__ is not None and is_lost(error.__cause__))


async def _results(connection: asyncpg.Connection[Any], sql: str, rows: Sequence[Parameters]) -> list[SqlResult]:
    prepared = await connection.prepare(sql)
    results: list[SqlResult] = []
    for row in rows:
        if not isinstance(row, tuple):
            raise NonRetryableError(
                f"PostgreSQL numbers parameters ($1, $2, ...), so they are given as a sequence, not by name: {sql!r}"
            )
        found = await prepared.fetch(*row)
        results.append(SqlResult([tuple(it) for it in found], _count_of(prepared.get_statusmsg() or ""), None))
    return results


def _count_of(status: str) -> int:
    """Return how many rows a statement has written, from what the server says of it; -1 if it is of another kind."""
    verb, _, count = status.partition(" ")
    if verb not in {"INSERT", "UPDATE", "DELETE", "MERGE"}:
        return -1
    return int(count.rpartition(" ")[2])
