"""Waiting for the first of several things."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from romancy.replay.context import current_execution

if TYPE_CHECKING:
    from collections.abc import Awaitable

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


@overload
async def select(first: Awaitable[A], /) -> tuple[Literal[0], A]: ...
@overload
async def select(first: Awaitable[A], second: Awaitable[B], /) -> tuple[Literal[0], A] | tuple[Literal[1], B]: ...
@overload
async def select(
    first: Awaitable[A], second: Awaitable[B], third: Awaitable[C], /
) -> tuple[Literal[0], A] | tuple[Literal[1], B] | tuple[Literal[2], C]: ...
@overload
async def select(
    first: Awaitable[A], second: Awaitable[B], third: Awaitable[C], fourth: Awaitable[D], /
) -> tuple[Literal[0], A] | tuple[Literal[1], B] | tuple[Literal[2], C] | tuple[Literal[3], D]: ...
@overload
async def select(*awaitables: Awaitable[A]) -> tuple[int, A]: ...
async def select(*awaitables: Awaitable[object]) -> tuple[int, object]:
    """Wait for the first of several awaitables, and withdraw the others.

    ``match await select(approvals.receive(), sleep(3600)): case (0, approval): ...``

    The first that is ready wins; the same one at every replay. The others are cancelled and waited for before this
    returns: an activity is told to stop, an awaited child is asked to cancel, a receive gives up its place and never
    takes a message with it. Cancelling the select cancels them all. What is to go on
    afterwards is given shielded (``asyncio.shield``).

    Args:
        *awaitables: Calls, coroutines, tasks or futures; at least one.

    Returns:
        The position of the winner, from 0, and its result. If the winner has raised, that is raised.

    Raises:
        ValueError: Nothing to wait for.
        OutsideWorkflowError: No workflow runs here.
    """
    current_execution("select()")
    if not awaitables:
        msg = "select() needs something to wait for"
        raise ValueError(msg)
    futures = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    ready: list[int] = []
    for index, future in enumerate(futures):
        # In the order in which they end: what asyncio.wait gives is a set of all that have by then.
        future.add_done_callback(partial(_note_end, ready, index))
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
    finally:
        losers = [future for future in futures if not future.done()]
        for future in losers:
            future.cancel()
        if losers:
            await asyncio.wait(losers)
    winner = ready[0]
    for index in ready[1:]:
        if not futures[index].cancelled():
            futures[index].exception()  # so that asyncio does not report a failure that nobody asks for
    return winner, futures[winner].result()


def _note_end(ready: list[int], index: int, _: asyncio.Future[object]) -> None:
    ready.append(index)
