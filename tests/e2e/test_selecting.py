"""Waiting for the first of several things, and for what comes in the same moment."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from romancy import App, Channel, OutsideWorkflowError, RetryPolicy, activity, select, sleep, start_child, workflow
from romancy.core.codec import JsonCodec
from romancy.replay.execution import Execution

from .conftest import MakeApp
from .faults import Fault, OffsetClock, insist
from .sweep import Scenario, act, begin, events_of, outcome_of, sweep

pytestmark = pytest.mark.anyio

letters: Channel[str] = Channel("selecting.letters", str)
go_on: Channel[str] = Channel("selecting.go_on", str)
gates: list[asyncio.Event] = []
FAR = 1_000_000


@activity(name="selecting_act")
async def act_when_open(text: str) -> str:
    await gates[0].wait()
    return text


@workflow(name="selecting_child")
async def child_waits() -> str:
    return await go_on.receive()


@workflow(name="selecting_first")
async def first_of_four() -> list[Any]:
    """Wait for four things; then take the message that may have lost."""
    child = await start_child(child_waits(), id="child", on_parent_close="abandon")
    winner = await select(sleep(0.1), letters.receive(), act_when_open("done"), child.result())
    message = "won" if winner[0] == 1 else await letters.receive()
    return [*winner, message]


async def all_ready_at_once(app: App) -> Any:
    """Let a timer, a message, an activity and a child become ready while the run is paused."""
    handle = await app.start(first_of_four(), id="one")
    while (
        "selecting_child" not in [info.workflow for info in await app.list()]
        or not (await (await app.get("child")).info()).waiting_on
    ):
        await asyncio.sleep(0.002)
    await handle.pause()
    await handle.send(letters, "the message")
    await app.send(go_on, "from the child", to="child")
    assert await (await app.get("child")).result() == "from the child"
    gates[0].set()
    await asyncio.sleep(0.2)
    await handle.unpause()
    await handle.result()
    return handle


@pytest.fixture(autouse=True)
def closed_gate() -> None:
    gates[:] = [asyncio.Event()]


async def test_winner_is_the_same_in_a_thousand_replays(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await all_ready_at_once(app)
        result = await handle.result()
        assert result[2] in ("won", "the message")
        row = await app.client.storage.get("one")
        assert row is not None
        events = await app.client.storage.history(row.key)
        for _ in range(1_000):
            execution = Execution(
                first_of_four, row.input, codec=JsonCodec(), execution_id=row.execution_id, instance_id="one"
            )
            execution.replay(events[:-1], drained_seq=len(events) - 1, started_at=row.started_at or 0)
            assert execution.closing is not None
            assert execution.closing.note.payload == events[-1].payload
            execution.suspend()


@workflow(name="selecting_losers")
async def losers(way: str) -> list[Any]:
    if way == "message":
        return [*await select(letters.receive(), sleep(FAR), act_when_open("late")), await letters.receive()]
    return [*await select(sleep(0), letters.receive(), act_when_open("late")), await letters.receive()]


@pytest.mark.parametrize("way", ["message", "timer"])
async def test_losers_are_withdrawn_and_the_message_stays(make_app: MakeApp, way: str) -> None:
    async with make_app() as app:
        handle = await app.start(losers(way), id="one")
        await handle.send(letters, "one")
        await handle.send(letters, "two")
        expected = [0, "one", "two"] if way == "message" else [0, None, "one"]
        assert await handle.result() == expected
        assert "activity_completed" not in [event.kind for event in await handle.history()]


class BrokenError(Exception):
    """What an activity fails with."""


@activity(name="selecting_break", retry=RetryPolicy(max_attempts=1))
async def break_() -> None:
    raise BrokenError("broken")


@workflow(name="selecting_failing")
async def failing() -> list[Any]:
    try:
        await select(sleep(60), break_())
    except BrokenError as exc:
        return [str(exc)]
    raise AssertionError


async def test_winner_that_has_failed_is_raised(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(failing()) == ["broken"]


@workflow(name="selecting_nothing")
async def nothing() -> str:
    try:
        await select()
    except ValueError as exc:
        return str(exc)
    raise AssertionError


async def test_select_refuses_nothing_and_other_places(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(nothing()) == "select() needs something to wait for"
    with pytest.raises(OutsideWorkflowError, match="select"):
        await select(asyncio.get_running_loop().create_future())


@workflow(name="selecting_wait")
async def wait_for_some() -> list[Any]:
    """What asyncio offers works the same way."""
    tasks = {
        asyncio.ensure_future(letters.receive()): "message",
        asyncio.ensure_future(act_when_open("done")): "activity",
        asyncio.ensure_future(sleep(60)): "timer",
    }
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return [tasks[task] for task in done]


async def test_asyncio_wait_takes_receives_timers_and_activities(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(wait_for_some(), id="one")
        gates[0].set()
        assert await handle.result() == ["activity"]


@workflow(name="selecting_just_in_time")
async def just_in_time(limit: float) -> list[Any]:
    """Receive with a time limit, and receive again while the stale timer is due."""
    first = await letters.receive(timeout=limit)
    second = await letters.receive(timeout=60)
    return [first, second]


async def test_message_just_before_the_time_limit_is_kept_and_the_stale_timer_hits_nobody(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(just_in_time(0.15), id="one")
        while not (waits := (await handle.info()).waiting_on):
            await asyncio.sleep(0.002)
        assert {wait["kind"] for wait in waits} == {"receive", "timer"}
        await handle.pause()  # so that the message and the timer are released in one batch
        await handle.send(letters, "first")
        await asyncio.sleep(0.2)
        await handle.unpause()
        while "message_received" not in [event.kind for event in await handle.history()]:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)
        assert (await handle.info()).status == "running"
        await handle.send(letters, "second")
        assert await handle.result() == ["first", "second"]
        kinds = [event.kind for event in await handle.history()]
    assert kinds == ["message_received", "message_received", "run_completed"]


async def play_just_in_time(app: App, clock: OffsetClock) -> list[Any]:
    """Have the first message and the timer of its receive released together, and the second come later."""
    handle = await begin(app, lambda: just_in_time(6.0), "one")
    await insist(handle.pause)
    await insist(partial(app.send, letters, "first", to="one", message_id="first"))
    clock.advance(6.5)  # less than a session's life
    await insist(handle.unpause)
    while len(await insist(handle.history)) == 0:
        await asyncio.sleep(0.002)
    await insist(partial(app.send, letters, "second", to="one", message_id="second"))
    return [await outcome_of(handle), await events_of(handle)]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_message_just_before_the_time_limit_is_kept_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault
) -> None:
    scenario = Scenario([just_in_time], partial(play_just_in_time, clock=clock))
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=False, at_least=5)


@workflow(name="selecting_late")
async def late() -> list[str]:
    try:
        return [await letters.receive(timeout=0.05)]
    except TimeoutError:
        return ["timed out", await letters.receive()]


async def test_message_after_the_time_limit_is_not_eaten(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(late(), id="one")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.002)
        await handle.pause()
        await asyncio.sleep(0.1)  # the timer is due first, by its deadline
        await handle.send(letters, "late")
        await handle.unpause()
        assert await handle.result() == ["timed out", "late"]


@activity(name="selecting_effect")
async def effect(text: str) -> str:
    act(text)
    return text


@workflow(name="selecting_sweep")
async def sweep_select() -> list[Any]:
    found: list[Any] = []
    for _ in range(2):
        found += await select(letters.receive(), child_waits(), sleep(FAR))
    index, value = await select(sleep(0.001), letters.receive())
    return [*found, index, value, await effect("done")]


async def play_select(app: App) -> list[Any]:
    handle = await begin(app, sweep_select, "one")
    for text in ("a", "b"):
        await insist(partial(app.send, letters, text, to="one", message_id=text))
    return [await outcome_of(handle), [e for e in await events_of(handle) if not e[0].startswith("child")]]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_select_has_one_winner_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([sweep_select, child_waits], play_select)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal)
