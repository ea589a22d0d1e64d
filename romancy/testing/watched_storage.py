"""A storage that knows whether anything is asked of it, and that can be cut off as a process's death would."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from romancy.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from romancy.core.clock import Clock
    from romancy.core.records import Entry
    from romancy.storage.protocol import Storage

Strike = Callable[["Sequence[Entry]"], bool]


class WatchedStorage:
    """One process's way to a storage; the storage itself is opened and closed by its owner.

    Attributes:
        under_way: How many calls have not returned.
        is_dead: Whether the process is dead: what is asked from then on never happens.
        strike: Told the entries of each commit, says whether the process is to die before it is made.
    """

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.under_way = 0
        self._waiters: list[asyncio.Future[None]] = []
        self.is_dead = False
        self.strike: Strike | None = None
        self.on_death: Callable[[], None] = lambda: None

    @property
    def storage(self) -> Storage:
        """This, as what it stands for."""
        return cast("Storage", self)

    @property
    def clock(self) -> Clock:
        """The storage's."""
        return self._inner.clock

    @property
    def transactions_at_once(self) -> int:
        """The storage's."""
        return self._inner.transactions_at_once

    @property
    def poll_interval(self) -> timedelta:
        """The storage's."""
        return self._inner.poll_interval

    async def open(self, *, migrate: bool = True) -> None:
        """Nothing: it is open."""

    async def close(self) -> None:
        """Nothing: its owner closes it."""

    async def wait_for_change(self, timeout: timedelta) -> bool:
        """As the storage; it is not counted, for it waits most of the time."""
        return await self._inner.wait_for_change(timeout)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(self._call, name)

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> object:
        if not self.is_dead and name == "commit" and self.strike is not None and self.strike(args[1]):
            self.is_dead = True
            self.on_death()
        if self.is_dead:
            await asyncio.get_running_loop().create_future()  # nobody is there to hear of it
            raise StorageError("this process is dead")
        self.under_way += 1
        try:
            return await getattr(self._inner, name)(*args, **kwargs)
        finally:
            self.under_way -= 1
            if not self.under_way:
                for waiter in self._waiters:
                    if not waiter.done():
                        waiter.set_result(None)
                self._waiters.clear()

    async def idle(self) -> None:
        """Wait until nothing is under way, without taking the interpreter's lock from those who do it."""
        if self.under_way:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
