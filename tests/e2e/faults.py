"""A storage that fails when it is told to, and a clock that can jump."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from romancy.core.events import EventKind
from romancy.core.records import Accepted, Entry
from romancy.errors import StorageError

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage

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


class Fault(Enum):
    """When a call fails: before anything is written, or after it, with the acknowledgement lost."""

    BEFORE = "before"
    AFTER = "after"


class ProcessDiedError(StorageError):
    """What a dead process would ask of the database gets this answer."""


class FaultyStorage:
    """One process's way to a storage: fails its n-th call, once, and dies of it if it is mortal.

    Calls that are spared are not counted.

    Opening and closing are not passed on: several of them may share one storage, in memory too. `recorded`
    holds the (execution id, run, activity id) of every activity whose end is in the database.
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
        self._inner = inner
        self._fail_at = fail_at
        self._fault = fault
        self.is_mortal = is_mortal
        self._spared = spared
        self.recorded: set[tuple[int, int, str]] = set() if recorded is None else recorded
        self.calls: list[str] = []
        self.died = asyncio.Event()
        self.has_failed = False

    async def open(self, *, migrate: bool = True) -> None:
        """Leave the shared storage as it is."""

    async def close(self) -> None:
        """Leave the shared storage as it is."""

    async def wait_for_change(self, timeout: Any) -> bool:
        """Pass on: how often it is called says nothing about the run."""
        return await self._inner.wait_for_change(timeout)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(self._call, name)

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._check()
        number = 0
        if name not in self._spared:
            self.calls.append(name)
            number = len(self.calls)
        if 0 < number == self._fail_at and self._fault is Fault.BEFORE:
            self._fail(name)
        result = await getattr(self._inner, name)(*args, **kwargs)
        if name == "commit":
            self._note(args[1], result)
        if 0 < number == self._fail_at and self._fault is Fault.AFTER:
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

    def _note(self, entries: list[Entry], answers: list[object]) -> None:
        for entry, answer in zip(entries, answers, strict=True):
            if isinstance(answer, Accepted):
                self.recorded |= {
                    (entry.execution_id, entry.run, note.activity_id)
                    for note in entry.notes
                    if note.kind in _ENDS and note.activity_id is not None
                }


def as_storage(storage: object) -> Storage:
    """Tell the type checkers that a wrapper has what a storage has."""
    return cast("Storage", storage)


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again when the database fails, as a careful caller does."""
    while True:
        try:
            return await ask()
        except ProcessDiedError:
            raise
        except StorageError:
            await asyncio.sleep(0.001)
