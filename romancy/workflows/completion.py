"""Taking results in the order in which they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Iterator

T = TypeVar("T")


def as_completed(aws: Iterable[Awaitable[T]], *, timeout: float | None = None) -> Iterator[Coroutine[Any, Any, T]]:
    """Iterate over awaitables in the order in which they end; the same order at every replay.

    A replacement of `asyncio.as_completed`, which makes its tasks in the order of addresses.

    Args:
        aws: Awaitables; one that is given twice is waited for once.
        timeout: Seconds for all of them; what is awaited after that raises `TimeoutError`.

    Yields:
        Coroutines, to be awaited one after the other.
    """
    completions = _Completions(aws)
    if timeout is not None:
        completions.limit(timeout)
    for _ in range(len(completions)):
        yield completions.next_one()


class _Completions(Generic[T]):
    """Futures that have not ended, and a queue of those that have; None stands for one that ran out of time."""

    def __init__(self, aws: Iterable[Awaitable[T]]) -> None:
        distinct = {id(awaitable): awaitable for awaitable in list(aws)}
        self._left: dict[asyncio.Future[T], None] = {}
        for awaitable in distinct.values():
            self._left[asyncio.ensure_future(awaitable)] = None
        self._ended: asyncio.Queue[asyncio.Future[T] | None] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        for future in self._left:
            future.add_done_callback(self._on_done)

    def __len__(self) -> int:
        return len(self._left)

    def limit(self, timeout: float) -> None:
        """Give up on what has not ended after ``timeout`` seconds."""
        if self._left:
            self._timer = asyncio.get_running_loop().call_later(timeout, self._on_timeout)

    async def next_one(self) -> T:
        """Wait for the next that ends, and return its result or raise its error."""
        future = await self._ended.get()
        if future is None:
            raise TimeoutError
        return future.result()

    def _on_done(self, future: asyncio.Future[T]) -> None:
        del self._left[future]
        self._ended.put_nowait(future)
        if not self._left and self._timer is not None:
            self._timer.cancel()

    def _on_timeout(self) -> None:
        for future in self._left:
            future.remove_done_callback(self._on_done)
            self._ended.put_nowait(None)
        self._left.clear()
