"""Transactions on PostgreSQL: begun again where others were in the way, bounded in time, and never cancelled."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

import asyncpg

from romancy.storage.postgres_connections import unreachable
from romancy.storage.postgres_errors import CONTENDED, RAISED, is_lost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from romancy.storage.outages import Outages
    from romancy.storage.postgres_connections import Connections

T = TypeVar("T")
Work: TypeAlias = "Callable[[asyncpg.Connection[Any]], Awaitable[T]]"

# In seconds.
_ATTEMPT_LIMIT = 6.0
_SECOND_ATTEMPT_LIMIT = 3.0
_CONTENTION_LIMIT = 8.0
_CLOSE_LIMIT = 5.0
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.1


class TryAgainError(Exception):
    """What was done has shown how it must be done: roll back, and do it again at once."""


class _Outcome(NamedTuple):
    """What a callable has returned, or raised; its transaction is over, and its connection sound."""

    result: object
    error: Exception | None


class Begun(NamedTuple):
    """A transaction that has begun.

    Attributes:
        connection: Where.
        status: What the first statement has found: ``"SELECT 1"``.
        may_be_done: Whether an earlier attempt at it was lost while it committed.
    """

    connection: asyncpg.Connection[Any]
    status: str
    may_be_done: bool


class Transactions:
    """Run callables, each in a transaction of its own.

    A callable may be run several times, of which at most one is committed unless a connection was lost while it was
    committing: then nobody knows, and it must do no harm to do it again. A transaction that was begun runs to its end,
    whether or not its caller is still waiting.
    """

    def __init__(self, connections: Connections, outages: Outages) -> None:
        self._connections = connections
        self._outages = outages
        self._name = connections.settings.name
        self._writers = asyncio.Semaphore(connections.settings.transactions_at_once)
        self._running: set[asyncio.Task[Any]] = set()

    async def transact(self, work: Callable[[Begun], Awaitable[T]], first: str = "") -> T:
        """Run a callable in a transaction, and commit.

        Args:
            work: Is called within the transaction.
            first: A statement without parameters that goes out with the beginning of the transaction.

        Raises:
            StorageError: The database can't be reached, refuses, or others were in the way for too long.
            Exception: What the callable raises; nothing is written.
        """
        script = f"{self._connections.begin_script}; {first}"
        may_be_done = False

        async def attempt(connection: asyncpg.Connection[Any]) -> _Outcome:
            nonlocal may_be_done
            status = await connection.execute(script)
            try:
                result = await work(Begun(connection, status, may_be_done))
            except Exception as error:
                if is_lost(error):
                    raise
                await connection.execute("ROLLBACK")
                return _Outcome(None, error)
            may_be_done = True
            await connection.execute("COMMIT")
            return _Outcome(result, None)

        async def whole() -> object:
            asked = asyncio.get_running_loop().time()
            async with self._writers:
                return await self._repeat(attempt, asked)

        return cast("T", await self._run(whole()))

    async def look(self, work: Work[T]) -> T:
        """Run a callable of statements each of which may take effect by itself.

        Raises:
            StorageError: The database can't be reached or refuses.
            Exception: What the callable raises.
        """
        if self._connections.settings.pooler:
            return await self.transact(lambda begun: work(begun.connection))

        async def attempt(connection: asyncpg.Connection[Any]) -> _Outcome:
            try:
                return _Outcome(await work(connection), None)
            except Exception as error:
                if is_lost(error):
                    raise
                return _Outcome(None, error)

        return cast("T", await self._run(self._repeat(attempt, asyncio.get_running_loop().time())))

    async def close(self) -> None:
        """Wait for what is under way, but not for long."""
        if self._running:
            _, left = await asyncio.wait(self._running, timeout=_CLOSE_LIMIT)
            for task in left:
                task.cancel()

    async def _run(self, coroutine: Coroutine[Any, Any, object]) -> object:
        task = asyncio.create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may have been cancelled: it is no error that nobody looks at

    async def _repeat(self, attempt: Work[_Outcome], asked: float) -> object:
        """Make attempts until one has an outcome that trying again would not change.

        Args:
            attempt: To be made.
            asked: When it was asked for, by the event loop's clock: it may have waited for its turn since.
        """
        clock = asyncio.get_running_loop().time
        limit, pause, contended_since = _ATTEMPT_LIMIT, _FIRST_PAUSE, None
        while True:
            async with self._connections.slots:
                if (cause := self._outages.cause) is not None and clock() - asked > _ATTEMPT_LIMIT:
                    raise unreachable(self._name, cause)  # others have tried meanwhile
                try:
                    async with self._connections.take() as connection, asyncio.timeout(limit):
                        outcome = await attempt(connection)
                except RAISED as error:
                    if not is_lost(error):
                        raise unreachable(self._name, error) from error
                    self._outages.failed(error)
                    if limit == _SECOND_ATTEMPT_LIMIT:
                        raise unreachable(self._name, error) from error
                    limit = _SECOND_ATTEMPT_LIMIT
                    continue
            self._outages.succeeded()
            failure = outcome.error
            if failure is None:
                return outcome.result
            contended_since = clock() if contended_since is None else contended_since
            if isinstance(failure, (TryAgainError, *CONTENDED)) and clock() - contended_since < _CONTENTION_LIMIT:
                await asyncio.sleep(pause * random.uniform(0, 1))
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            if isinstance(failure, (TryAgainError, *RAISED)):
                raise unreachable(self._name, failure) from failure
            raise failure
