"""Calls that are made at the same time are done together, and each of them is answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from romancy.storage import gathering
from romancy.storage.gathering import Gathering

pytestmark = pytest.mark.anyio


class Counter:
    """Doubles numbers; remembers the batches, and waits in each until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_end = asyncio.Event()
        self.fails_with: BaseException | None = None

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.may_end.wait()
        if (failure := self.fails_with) is not None:
            self.fails_with = None
            raise failure
        return [2 * item for item in items]


async def begun(*calls: asyncio.Task[int]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(call.done() for call in calls)


def ask(gather: Gathering[int, int], *items: int) -> list[asyncio.Task[int]]:
    async def call(item: int) -> int:
        return await gather(item)

    return [asyncio.create_task(call(item)) for item in items]


async def test_what_is_asked_while_a_batch_is_under_way_is_in_the_next_one() -> None:
    counter = Counter()
    gather = Gathering(counter)
    first = ask(gather, 1, 2)
    await begun(*first)
    second = ask(gather, 3, 4)
    await begun(*second)
    counter.may_end.set()
    assert await asyncio.gather(*first, *second) == [2, 4, 6, 8]
    assert counter.batches == [[1, 2], [3, 4]]


async def test_call_after_the_last_batch_begins_another() -> None:
    counter = Counter()
    counter.may_end.set()
    gather = Gathering(counter)
    assert await gather(1) == 2
    assert await gather(2) == 4


async def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_MAX", 3)
    counter = Counter()
    counter.may_end.set()
    assert await asyncio.gather(*ask(Gathering(counter), *range(8))) == [2 * n for n in range(8)]
    assert counter.batches == [[0, 1, 2], [3, 4, 5], [6, 7]]


async def test_failure_is_that_of_its_batch_alone() -> None:
    counter = Counter()
    gather = Gathering(counter)
    first = ask(gather, 1, 2)
    await begun(*first)
    second = ask(gather, 3)
    counter.fails_with = OSError("away")
    counter.may_end.set()
    assert [str(each) for each in await asyncio.gather(*first, return_exceptions=True)] == ["away", "away"]
    assert await second[0] == 6


async def test_caller_that_is_cancelled_stops_nobody() -> None:
    counter = Counter()
    gather = Gathering(counter)
    one, other = ask(gather, 1, 2)
    await begun(one, other)
    one.cancel()
    counter.may_end.set()
    assert await other == 4
    assert one.cancelled()
    assert await gather(3) == 6


async def test_batch_that_is_cancelled_is_told_to_all_who_wait() -> None:
    counter = Counter()
    gather = Gathering(counter)
    calls = ask(gather, 1, 2)
    await begun(*calls)
    counter.fails_with = asyncio.CancelledError()
    counter.may_end.set()
    assert all(isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*calls, return_exceptions=True))
    assert await gather(3) == 6
