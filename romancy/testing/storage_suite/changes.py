"""Hearing of what other processes write."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from romancy.core.records import Instance, Publication
from romancy.errors import StorageError
from romancy.testing.storage_suite.making import Worker, note, post, send
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from romancy.storage.protocol import Storage

LONG = timedelta(seconds=30)
SOON = 5.0
"""In seconds."""
SHORT = timedelta(seconds=0.05)


async def settle(storage: Storage) -> None:
    """Hear of all that has been written so far."""
    for _ in range(100):
        if not await storage.wait_for_change(SHORT):
            return
    raise AssertionError("there is no end of changes, though nobody writes")


async def post_message(worker: Worker, _: Instance) -> None:
    """Post to an instance that another process owns."""
    await worker.storage.post([post("owned")])


async def pause(worker: Worker, _: Instance) -> None:
    """Pause an instance that another process owns."""
    await worker.storage.pause("owned")


async def terminate(worker: Worker, _: Instance) -> None:
    """Terminate an instance that another process owns."""
    await worker.storage.terminate("owned", b"{}")


async def create(worker: Worker, _: Instance) -> None:
    """Create an instance that anybody may claim."""
    await worker.create()


async def publish(worker: Worker, _: Instance) -> None:
    """Publish to a topic."""
    await worker.storage.publish([Publication("news", b"1", "m")])


async def send_message(worker: Worker, mine: Instance) -> None:
    """Commit a turn that sends to an instance that another process owns."""
    await worker.advance(mine, requests=[send("owned")])


async def free(worker: Worker, mine: Instance) -> None:
    """Commit a turn that lets an instance go, for anybody to claim."""
    await worker.advance(mine, note(), wake_at=worker.at(-1), is_freed=True)


async def complete(worker: Worker, mine: Instance) -> None:
    """Commit a turn that completes an instance: somebody may wait for its result."""
    await worker.close(mine)


async def end_session(worker: Worker, _: Instance) -> None:
    """End a session that owns something that is due."""
    await worker.storage.close_session(worker.session)


WRITES: tuple[Callable[[Worker, Instance], Awaitable[None]], ...] = (
    create,
    post_message,
    publish,
    pause,
    terminate,
    send_message,
    free,
    complete,
    end_session,
)


class ChangesSuite(Suite):
    """What one process writes, others hear of soon; what they hear of they need not ask for."""

    @pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
    async def test_change_by_another_is_noticed_soon(
        self, workers: tuple[Worker, Worker], write: Callable[[Worker, Instance], Awaitable[None]]
    ) -> None:
        one, other = workers
        await one.own("owned")
        mine = await other.own("mine")
        await settle(one.storage)
        waiting = asyncio.ensure_future(one.storage.wait_for_change(LONG))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await write(other, mine)
        assert await asyncio.wait_for(waiting, SOON)

    async def test_change_between_two_calls_is_noticed(self, workers: tuple[Worker, Worker]) -> None:
        one, other = workers
        await settle(one.storage)
        await other.create()
        assert await asyncio.wait_for(one.storage.wait_for_change(LONG), SOON)
        assert not await one.storage.wait_for_change(SHORT)

    async def test_change_since_opening_is_noticed(self, workers: tuple[Worker, Worker]) -> None:
        one, other = workers
        await other.create()
        assert await asyncio.wait_for(one.storage.wait_for_change(LONG), SOON)

    async def test_changes_are_noticed_one_after_another(self, workers: tuple[Worker, Worker]) -> None:
        one, other = workers
        for _ in range(20):
            await settle(one.storage)
            await other.create()
            assert await asyncio.wait_for(one.storage.wait_for_change(LONG), SOON)

    async def test_what_was_noticed_can_be_read(self, workers: tuple[Worker, Worker]) -> None:
        """Who hears of a write and then looks must see it: it does not look again until it hears of another."""
        one, other = workers
        for n in range(50):
            if n % 10 == 0:
                await settle(one.storage)
            writing = asyncio.ensure_future(other.create(f"n{n}"))
            while await one.storage.get(f"n{n}") is None:
                assert await asyncio.wait_for(one.storage.wait_for_change(LONG), SOON)
            await writing

    async def test_own_writes_are_no_change(self, workers: tuple[Worker, Worker]) -> None:
        one, _ = workers
        await settle(one.storage)
        waiting = asyncio.ensure_future(one.storage.wait_for_change(SHORT))
        for _ in range(5):
            await one.create()
            await asyncio.sleep(0.005)
        assert not await waiting


class WaitingSuite(Suite):
    """Waiting for changes ends when it must and is in nobody's way."""

    async def test_waiting_ends_at_its_time_out(self, storage: Storage) -> None:
        loop = asyncio.get_running_loop()
        await settle(storage)
        began = loop.time()
        assert not await storage.wait_for_change(SHORT)
        assert SHORT.total_seconds() <= loop.time() - began < SOON

    async def test_waiting_can_be_cancelled(self, worker: Worker, storage: Storage) -> None:
        await settle(storage)
        waiting = asyncio.ensure_future(storage.wait_for_change(LONG))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await worker.create()

    async def test_waiting_does_not_keep_writes_waiting(self, worker: Worker, storage: Storage) -> None:
        await settle(storage)
        waiting = asyncio.ensure_future(storage.wait_for_change(LONG))
        await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.wait_for(worker.create(), SOON)
        waiting.cancel()

    async def test_use_of_a_closed_storage_is_refused(self, storage: Storage) -> None:
        await asyncio.gather(*(storage.get(str(n)) for n in range(10)))
        await storage.close()
        await storage.close()
        with pytest.raises(StorageError):
            await storage.get("x")
        with pytest.raises(StorageError):
            await storage.wait_for_change(SHORT)
