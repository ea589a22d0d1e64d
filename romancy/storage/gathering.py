"""Calls that are made at the same time, done together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

A = TypeVar("A")
R = TypeVar("R")

_MAX = 500
"""Items in one call: bounds for how long a transaction lasts."""


class Gathering(Generic[A, R]):
    """Hand over single items in batches: what is asked while a batch is under way is in the next one.

    A batch that fails fails for each of its items. It is not cancelled when one of those who wait for it is.

    Args:
        do: Takes items, and returns a result for each, in order.
    """

    def __init__(self, do: Callable[[Sequence[A]], Awaitable[Sequence[R]]]) -> None:
        self._do = do
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: A) -> R:
        """Have an item done, and return its result.

        Raises:
            Exception: What the batch raises.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MAX], self._waiting[_MAX:]
            try:
                results = await self._do([item for item, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # whoever waits may be cancelled before it looks
                if not isinstance(error, Exception):
                    raise
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
