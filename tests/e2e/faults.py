"""Storages that fail, stop or interfere when they are told to, and a clock that can jump."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from romancy.core.events import EventKind
from romancy.core.records import Accepted, Entry, Rejected, Undone
from romancy.errors import StorageError

if TYPE_CHECKING:
    from datetime import timedelta

    from romancy.activities.transaction import Parameters, SqlResult
    from romancy.core.clock import Clock
    from romancy.storage.protocol import Storage, Transaction

T = TypeVar("T")

_ENDS = frozenset({EventKind.ACTIVITY_COMPLETED, EventKind.ACTIVITY_FAILED})


class OffsetClock:
    """The machine's clock, shifted: sessions expire when the test says so, timers fire by themselves."""

    def __init__(self) -> None:
        self._offset = 0

    def now(self) -> int:
        return time.time_ns() // 1000 + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += round(seconds * 1_000_000)


class StorageProxy:
    """One process's way to a storage that others use too: opening and closing are not passed on."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner

    @property
    def storage(self) -> Storage:
        """This proxy, as what it stands for."""
        return cast("Storage", self)

    @property
    def clock(self) -> Clock:
        """The inner storage's."""
        return self.inner.clock

    @property
    def transactions_at_once(self) -> int:
        """The inner storage's."""
        return self.inner.transactions_at_once

    @property
    def poll_interval(self) -> timedelta:
        """The inner storage's."""
        return self.inner.poll_interval

    async def open(self, *, migrate: bool = True) -> None:
        """Leave the shared storage as it is."""

    async def close(self) -> None:
        """Leave the shared storage as it is."""

    async def wait_for_change(self, timeout: timedelta) -> bool:
        """Pass on: how often it is called says nothing about a run."""
        return await self.inner.wait_for_change(timeout)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(self.call, name)

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Do what is asked of the storage; subclasses interfere here."""
        return await getattr(self.inner, name)(*args, **kwargs)


class Fault(Enum):
    """When a call fails: before anything is written, or after it, with the acknowledgement lost."""

    BEFORE = "before"
    AFTER = "after"


class ProcessDiedError(StorageError):
    """What a dead process would ask of the database gets this answer."""


class FaultyStorage(StorageProxy):
    """Fail the n-th call, once, and if it is mortal, all that follow. Calls that are spared are not counted.

    ``recorded`` holds the (execution id, run, activity id) of every activity whose end is in the database.
    """

    def __init__(
        self,
        inner: Storage,
        *,
        fail_at: int = 0,
        fault: Fault = Fault.BEFORE,
        is_mortal: bool = False,
        spared: frozenset[str] = frozenset(),
        recorded: set[tuple[int, int, str]] | None = None,
    ) -> None:
        super().__init__(inner)
        self._fail_at = fail_at
        self._fault = fault
        self.is_mortal = is_mortal
        self._spared = spared
        self.recorded: set[tuple[int, int, str]] = set() if recorded is None else recorded
        self.calls: list[str] = []
        self.died = asyncio.Event()
        self.has_failed = False

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Pass a call on, unless it is its turn to fail."""

        async def act() -> Any:
            result = await super(FaultyStorage, self).call(name, *args, **kwargs)
            if name == "commit":
                self.note(args[1], result)
            return result

        if name != "transaction":
            return await self.guard(name, act)
        begun: list[Any] = []

        async def begin() -> FaultyTransaction:
            begun.append(await act())
            return FaultyTransaction(self, begun[0])

        try:
            return await self.guard(name, begin)
        except StorageError:
            if begun:  # whoever does not know of it has lost the connection that it is on
                await begun[0].rollback()
            raise

    async def guard(self, name: str, act: Callable[[], Awaitable[T]]) -> T:
        """Do something, unless it is its turn to fail."""
        self._check()
        is_due = False
        if name not in self._spared:
            self.calls.append(name)
            is_due = len(self.calls) == self._fail_at
        if is_due and self._fault is Fault.BEFORE:
            self._fail(name)
        result = await act()
        if is_due and self._fault is Fault.AFTER:
            self._fail(name)
        self._check()
        return result

    def _check(self) -> None:
        if self.died.is_set():
            raise ProcessDiedError("this process is dead")

    def _fail(self, name: str) -> None:
        self.has_failed = True
        if self.is_mortal:
            self.died.set()
        raise StorageError(f"injected: {name} fails {self._fault.value} it is done")

    def note(self, entries: Sequence[Entry], answers: Sequence[object]) -> None:
        """Remember which activities have ended."""
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(answer, Accepted):
                self.recorded |= {
                    (entry.execution_id, entry.run, note.activity_id)
                    for note in entry.notes
                    if note.kind in _ENDS and note.activity_id is not None
                }


class FaultyTransaction:
    """A transaction whose calls fail as those of its storage do; when its process dies, it is rolled back."""

    def __init__(self, storage: FaultyStorage, inner: Transaction) -> None:
        self._storage = storage
        self._inner = inner
        self.ended = inner.ended

    async def execute(self, sql: str, parameters: Parameters) -> SqlResult:
        return await self._storage.guard("transaction.execute", lambda: self._inner.execute(sql, parameters))

    async def executemany(self, sql: str, rows: Sequence[Parameters]) -> SqlResult:
        return await self._storage.guard("transaction.executemany", lambda: self._inner.executemany(sql, rows))

    async def commit(self, session: int, entry: Entry) -> Accepted | Rejected | Undone:
        async def act() -> Accepted | Rejected | Undone:
            answer = await self._inner.commit(session, entry)
            self._storage.note([entry], [answer])
            return answer

        return await self._storage.guard("transaction.commit", act)

    async def rollback(self) -> None:
        await self._inner.rollback()
        await self._storage.guard("transaction.rollback", self._inner.rollback)


class StallingStorage(StorageProxy):
    """Hold back every call while it is stalled, as a process that is stopped does."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self._goes = asyncio.Event()
        self._goes.set()

    def stall(self) -> None:
        """Stop."""
        self._goes.clear()

    def go_on(self) -> None:
        """Go on."""
        self._goes.set()

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Pass a call on when it is time to."""
        await self._goes.wait()
        return await super().call(name, *args, **kwargs)

    async def wait_for_change(self, timeout: timedelta) -> bool:
        """Likewise."""
        await self._goes.wait()
        return await super().wait_for_change(timeout)


Interference = Callable[[Sequence[Entry]], Awaitable[None]]


class MeddlingStorage(StorageProxy):
    """Let something else happen right before or right after a commit, before it is acknowledged."""

    def __init__(
        self, inner: Storage, *, before: Interference | None = None, after: Interference | None = None
    ) -> None:
        super().__init__(inner)
        self.before = before
        self.after = after

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Pass a call on, with what comes between."""
        if name == "commit" and self.before is not None:
            await self.before(args[1])
        result = await super().call(name, *args, **kwargs)
        if name == "commit" and self.after is not None:
            await self.after(args[1])
        return result


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again when the database fails, as a careful caller does."""
    while True:
        try:
            return await ask()
        except ProcessDiedError:
            raise
        except StorageError:
            await asyncio.sleep(0.001)
