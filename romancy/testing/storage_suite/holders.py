"""What subscriptions have been handed, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from romancy.core.records import Instance, NextRun, Status
from romancy.core.requests import ChannelMode, Unsubscribe
from romancy.testing.storage_suite.making import DEFINITION, RECURRING, Worker, note, outlive
from romancy.testing.storage_suite.suite import Suite
from romancy.testing.storage_suite.topics import (
    BROADCAST,
    COMPETING,
    hand_out,
    publish,
    subscribe,
    subscribed,
    unread,
    wait,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database


async def unsubscribes(worker: Worker, holder: Instance, mailbox: str) -> None:
    """Close the subscription."""
    await worker.advance(holder, orders=[Unsubscribe(mailbox)], wake_at=None)


async def completes(worker: Worker, holder: Instance, _: str) -> None:
    """Complete the instance."""
    await worker.close(holder)


async def is_terminated(worker: Worker, holder: Instance, _: str) -> None:
    """Terminate the instance."""
    await worker.storage.terminate(holder.id, b"{}")


ENDS: tuple[Callable[[Worker, Instance, str], Awaitable[None]], ...] = (unsubscribes, completes, is_terminated)


class HoldersSuite(Suite):
    """What a subscription holds is read by it, goes to its next run, or returns to its place."""

    @pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
    async def test_what_was_not_read_returns_to_its_place(
        self,
        worker: Worker,
        storage: Storage,
        database: Database,
        end: Callable[[Worker, Instance, str], Awaitable[None]],
    ) -> None:
        holder, mailbox = await subscribed(worker, "holder", COMPETING)
        heir, heir_box = await subscribed(worker, "heir", COMPETING)
        await publish(storage, "m1", "m2", "m3")
        for number in (1, 2):
            holder = await wait(worker, holder, mailbox, f"{number}:receive")
        assert await hand_out(storage) == [holder.key]
        holder = await worker.advance(await worker.read("holder"), note(), consumed=[1], inbox_seen=2, wake_at=None)
        await end(worker, holder, mailbox)
        assert [await database.count(table) for table in ("waits", "subscriptions", "messages")] == [0, 1, 0]
        for number in (5, 6):
            heir = await wait(worker, heir, heir_box, f"{number}:receive")
        assert await hand_out(storage) == [heir.key]
        assert await unread(worker) == {"heir": [f"{heir_box} m2", f"{heir_box} m3"]}

    @pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
    async def test_wait_of_what_has_ended_gets_nothing(
        self, worker: Worker, storage: Storage, end: Callable[[Worker, Instance, str], Awaitable[None]]
    ) -> None:
        holder, mailbox = await subscribed(worker, "holder", COMPETING)
        heir, heir_box = await subscribed(worker, "heir", COMPETING)
        holder = await wait(worker, holder, mailbox)
        await wait(worker, heir, heir_box)
        await end(worker, holder, mailbox)
        await publish(storage, "m1")
        assert await hand_out(storage) == [heir.key]

    async def test_end_of_a_holder_says_that_there_is_something_to_hand_out(
        self, worker: Worker, storage: Storage
    ) -> None:
        holder, mailbox = await subscribed(worker, "holder", COMPETING)
        holder = await wait(worker, holder, mailbox)
        await publish(storage, "m1")
        await hand_out(storage)
        closing = worker.entry(holder, note(), status=Status.COMPLETED, wake_at=None)
        assert (await worker.accepted(closing)).has_topics

    @pytest.mark.parametrize("mode", [BROADCAST, COMPETING])
    async def test_next_run_takes_over_what_an_earlier_one_has_left(
        self, worker: Worker, storage: Storage, database: Database, mode: ChannelMode
    ) -> None:
        one, mailbox = await subscribed(worker, "one", mode)
        if mode is COMPETING:
            one = await wait(worker, one, mailbox)
        await publish(storage, "m1")
        await hand_out(storage)
        two = await worker.advance(one, RECURRING, next_run=NextRun(*DEFINITION, b"[2]"), wake_at=None)
        assert await database.count("waits") == 0
        two, taken_over = await subscribe(worker, two, mode, activity_id="9:subscribe")
        assert taken_over == mailbox
        await publish(storage, "m2")
        if mode is COMPETING:
            await wait(worker, two, mailbox)
        await hand_out(storage)
        assert await unread(worker) == {"one": [f"{mailbox} m1", f"{mailbox} m2"]}
        _, another = await subscribe(worker, await worker.read("one"), mode, activity_id="10:subscribe")
        assert another != mailbox

    async def test_message_of_a_competing_topic_survives_its_holder_s_process(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        holder, mailbox = await subscribed(worker, "holder", COMPETING)
        await wait(worker, holder, mailbox)
        await publish(storage, "m1")
        await hand_out(storage)
        outlive(clock)
        await storage.reap_sessions()
        successor = await Worker.start(storage, clock)
        (claim,) = await successor.claim_all()
        assert [(item.channel, item.message_id) for item in claim.inbox] == [(mailbox, "m1")]
