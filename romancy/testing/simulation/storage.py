"""SQLite in the loop's own thread, and each process's way to it: slow, failing, and cut off when the process dies."""

from __future__ import annotations

import asyncio
import sqlite3
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from romancy.errors import StorageError
from romancy.storage.sqlite import SqliteStorage
from romancy.storage.sqlite_thread import Outcome, run, transact

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from romancy.core.clock import Clock
    from romancy.storage.protocol import Storage

T = TypeVar("T")


class _Inline:
    """In place of `romancy.storage.sqlite_thread.SqliteThread`: does at once what it is asked."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self.connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        self.connection = self._connect()

    async def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        (outcome,) = transact(self._open(), [work], lock_timeout=0)
        return cast("T", self._of(outcome))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return cast("T", self._of(run(self._open(), work)))

    def _open(self) -> sqlite3.Connection:
        if self.connection is None:
            raise StorageError("the simulated database is closed")
        return self.connection

    @staticmethod
    def _of(outcome: Outcome) -> object:
        if isinstance(outcome.error, sqlite3.Error):
            raise StorageError(str(outcome.error)) from outcome.error
        if outcome.error is not None:
            raise outcome.error
        return outcome.result


class SimulatedDatabase(SqliteStorage):
    """A database in memory that is used from one thread."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("sqlite://", clock=clock)
        self.inline = _Inline(self._connect_writer)
        self._writer = self._reader = cast("Any", self.inline)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return what a statement finds."""
        connection = self.inline.connection
        return [] if connection is None else connection.execute(sql).fetchall()


class Fate(Enum):
    """What becomes of a call."""

    DONE = "done"
    FAILED_BEFORE = "failed before it was done"
    FAILED_AFTER = "done, and its acknowledgement lost"


class ProcessStorage:
    """One process's way to the database.

    Attributes:
        chance: What all choices are made by.
        delay: About how many seconds a call takes, on the way there and on the way back.
        failures: How likely a call is to fail.
        is_dead: Whether the process has died: nothing that it asks for happens any more.
    """

    def __init__(self, inner: Storage, chance: random.Random, *, delay: float, failures: float) -> None:
        self._inner = inner
        self._chance = chance
        self.delay = delay
        self.failures = failures
        self.is_dead = False
        self._stopped_until = 0.0

    @property
    def storage(self) -> Storage:
        """This, as what it stands for."""
        return cast("Storage", self)

    @property
    def clock(self) -> Clock:
        """The database's."""
        return self._inner.clock

    @property
    def transactions_at_once(self) -> int:
        """The database's."""
        return self._inner.transactions_at_once

    @property
    def poll_interval(self) -> timedelta:
        """The database's."""
        return self._inner.poll_interval

    def stop(self, seconds: float) -> None:
        """Hold everything back for some time, as a process that is stopped does."""
        self._stopped_until = asyncio.get_running_loop().time() + seconds

    async def open(self, *, migrate: bool = True) -> None:
        """Nothing: it is open."""

    async def close(self) -> None:
        """Nothing: others use it."""

    async def wait_for_change(self, timeout: timedelta) -> bool:
        """Notice a change sometimes; a notice may be lost, then polling finds it."""
        is_noticed = self._chance.random() < 0.5
        await asyncio.sleep(timeout.total_seconds() * (self._chance.random() if is_noticed else 1.0))
        return is_noticed

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(self._call, name)

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> object:
        await self._pass()
        fate = self._fate()
        if fate is Fate.FAILED_BEFORE:
            raise StorageError(f"simulated: {name} {fate.value}")
        # What is under way happens, whether the process lives to hear of it or not.
        result = await asyncio.shield(asyncio.ensure_future(getattr(self._inner, name)(*args, **kwargs)))
        await self._pass()
        if fate is Fate.FAILED_AFTER:
            raise StorageError(f"simulated: {name} {fate.value}")
        return result

    def _fate(self) -> Fate:
        if self._chance.random() >= self.failures:
            return Fate.DONE
        return Fate.FAILED_BEFORE if self._chance.random() < 0.5 else Fate.FAILED_AFTER

    async def _pass(self) -> None:
        """Let the time pass that a call takes on its way; a process that has died waits for ever."""
        if self.delay and self._chance.random() < 0.7:
            await asyncio.sleep(self._chance.expovariate(1 / self.delay))
        left = self._stopped_until - asyncio.get_running_loop().time()
        if left > 0:
            await asyncio.sleep(left)
        if self.is_dead:
            await asyncio.get_running_loop().create_future()
