"""An instance started anew under a used id shares nothing with its predecessor."""

from __future__ import annotations

import asyncio

import pytest

import romancy
from romancy import (
    Channel,
    InstanceNotFoundError,
    InstanceRunningError,
    WorkflowTerminatedError,
    activity,
    activity_info,
    workflow,
)
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import OffsetClock, StallingStorage, StorageProxy

pytestmark = pytest.mark.anyio

letters = Channel("restart_letters", str)
keys: list[str] = []
begun = asyncio.Event()
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global begun, may_end
    begun, may_end = asyncio.Event(), asyncio.Event()
    keys.clear()


@activity
async def restart_key() -> str:
    keys.append(activity_info().idempotency_key)
    return keys[-1]


@activity
async def restart_slow(whose: str) -> str:
    begun.set()
    if whose == "first":
        try:
            await may_end.wait()
        except asyncio.CancelledError:
            # A late result: the body does not stop when it is told to.
            await may_end.wait()
    return f"of {whose}"


@workflow
async def restart_draws() -> list[str]:
    return [await restart_key(), str(romancy.uuid4()), str(romancy.random())]


@workflow
async def restart_slowly(whose: str) -> list[str]:
    return [await restart_slow(whose), await letters.receive()]


@pytest.mark.parametrize("way", ["purge", "restart"])
async def test_restarted_instance_draws_other_keys_uuids_and_numbers(make_app: MakeApp, way: str) -> None:
    async with make_app() as app:
        first = await app.run(restart_draws(), id="one")
        if way == "purge":
            await app.purge("one")
            with pytest.raises(InstanceNotFoundError):
                await app.get("one")
        handle = await app.start(restart_draws(), id="one", on_conflict="restart")
        second = await handle.result()
    assert not set(first) & set(second)
    assert len(set(keys)) == 2


async def test_restart_and_purge_of_a_running_instance_are_refused(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(restart_slowly("second"), id="one")
        with pytest.raises(InstanceRunningError):
            await app.start(restart_slowly("second"), id="one", on_conflict="restart")
        with pytest.raises(InstanceRunningError):
            await app.purge("one")
        await app.send(letters, "letter", to="one")
        assert await handle.result() == ["of second", "letter"]


@pytest.mark.parametrize("way", ["purge", "restart"])
async def test_late_result_message_and_cancel_do_not_reach_the_successor(
    shared: Storage, clock: OffsetClock, make_app: MakeApp, way: str
) -> None:
    stalling = StallingStorage(shared)
    async with (
        make_app(stalling.storage, clock=clock) as stale,
        make_app(StorageProxy(shared).storage, clock=clock) as app,
    ):
        first = await stale.start(restart_slowly("first"), id="one")
        await begun.wait()
        # Unread when the predecessor ends: a message and a cancel.
        stalling.stall()
        await app.send(letters, "late letter", to="one", message_id="only")
        await app.cancel("one", "late cancel")
        await app.terminate("one", "enough")
        if way == "purge":
            await app.purge("one")
        handle = await app.start(restart_slowly("second"), id="one", on_conflict="restart")
        may_end.set()
        stalling.go_on()
        await asyncio.sleep(0.05)
        # The same message id is another message to another start.
        await app.send(letters, "letter", to="one", message_id="only")
        assert await handle.result() == ["of second", "letter"]
        kinds = [event.kind for event in await handle.history()]
        assert kinds == ["activity_completed", "message_received", "run_completed"]
        assert first.id == handle.id


async def test_terminated_instance_whose_body_ends_late_stays_terminated(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(restart_slowly("first"), id="one")
        await begun.wait()
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminatedError, match="enough"):
            await handle.result()
        history = await handle.history()
        may_end.set()
        await asyncio.sleep(0.02)
        assert await handle.history() == history
        assert [event.kind for event in history] == ["run_terminated"]
