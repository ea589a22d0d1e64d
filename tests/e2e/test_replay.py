"""What live and replay must agree on, with the run in memory and without."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime

import pytest

import romancy
from romancy import Channel, Handle, activity, activity_info, workflow
from romancy.core.definitions import Workflow

from .conftest import MakeApp

pytestmark = pytest.mark.anyio

go_on = Channel("replay_go_on", str)
bodies: list[str] = []
gates: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    bodies.clear()
    gates.clear()


def gate(name: str) -> asyncio.Event:
    return gates.setdefault(name, asyncio.Event())


@activity
async def replay_step(name: str) -> str:
    """End when the test says so, and let the next one end."""
    bodies.append(name)
    await gate(name).wait()
    return f"{activity_info().activity_id} {name}"


@activity
async def replay_charge(amount: int) -> int:
    bodies.append(activity_info().idempotency_key)
    return amount


@activity
async def replay_note(values: list[str]) -> list[str]:
    return values


async def branch(name: str) -> list[str]:
    return [await replay_step(f"{name}1"), await replay_step(f"{name}2")]


async def until_confirmed(values: list[str]) -> list[str]:
    """Record the values, wait (to be replayed), and return what was recorded and what is seen now."""
    noted = await replay_note(values)
    await go_on.receive()
    assert noted == values
    return noted


@workflow
async def replay_branches() -> list[str]:
    one, other = await asyncio.gather(branch("a"), branch("b"))
    return await until_confirmed(one + other)


@workflow
async def replay_as_completed() -> list[str]:
    found = [await each for each in romancy.as_completed([replay_step(name) for name in "abc"])]
    return await until_confirmed(found)


@workflow
async def replay_first_completed() -> list[str]:
    left = {asyncio.create_task(branch(name)) for name in "abc"}
    found: list[str] = []
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            found += task.result()
    return await until_confirmed(found)


@workflow
async def replay_queue() -> list[str]:
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def produce(name: str) -> None:
        await queue.put(await replay_step(name))

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(produce(name))
        found = [await queue.get() for _ in range(3)]
    return await until_confirmed(found)


@workflow
async def charge_twice() -> tuple[int, int]:
    return await asyncio.gather(replay_charge(5), replay_charge(5))


@workflow
async def numbered() -> list[str]:
    first = await replay_charge(1)
    second = await asyncio.wait_for(replay_charge(2), 5)
    third = await replay_charge(3)
    return [f"{first}{second}{third}"]


@workflow
async def chance() -> list[str]:
    drawn = [str(romancy.uuid4()), str(romancy.random()), str(romancy.now()), romancy.side_effect(draw)]
    await replay_charge(1)
    drawn += [str(romancy.uuid4()), str(romancy.random()), romancy.side_effect(draw)]
    return await until_confirmed(drawn)


draws: Counter[str] = Counter()


def draw() -> str:
    draws["drawn"] += 1
    return f"draw {draws['drawn']}"


async def ending_in_order(handle: Handle[list[str]], names: list[str]) -> None:
    """Let bodies end one after the other, each when the one before has been recorded."""
    for count, name in enumerate(names, 1):
        gate(name).set()
        while len(await handle.history()) < count:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("work", "order", "expected"),
    [
        (replay_branches, ["b1", "b2", "a1", "a2"], ["t1.1 a1", "t1.2 a2", "t2.1 b1", "t2.2 b2"]),
        (replay_as_completed, ["c", "a", "b"], ["c", "a", "b"]),
        (replay_first_completed, ["b1", "c1", "a1", "c2", "a2", "b2"], ["c1", "c2", "a1", "a2", "b1", "b2"]),
        (replay_queue, ["b", "c", "a"], ["b", "c", "a"]),
    ],
    ids=["gather", "as_completed", "wait", "queue"],
)
async def test_replay_sees_what_was_seen_live(
    database: str, make_app: MakeApp, work: Workflow[[], list[str]], order: list[str], expected: list[str]
) -> None:
    async with make_app(database) as app:
        await ending_in_order(await app.start(work(), id="one"), order)
    async with make_app(database) as app:
        await app.send(go_on, "now", to="one")
        found = await (await app.get("one")).result()
    assert [each.split()[-1] for each in found] == [each.split()[-1] for each in expected]
    assert sorted(bodies) == sorted(order)


async def test_gathered_equal_calls_are_two_operations(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(charge_twice()) == (5, 5)
    assert len(bodies) == 2
    assert len(set(bodies)) == 2


async def test_activity_ids_count_the_calls_whatever_is_around_them(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(numbered())
        await handle.result()
        ids = [event.activity_id for event in await handle.history()]
    assert ids == ["1:replay_charge", "2:replay_charge", "3:replay_charge", None]


async def test_chance_and_time_are_the_same_on_replay_and_differ_between_starts(
    database: str, make_app: MakeApp
) -> None:
    draws.clear()
    for _ in range(2):
        async with make_app(database) as app:
            for id in ("one", "other"):
                await app.start(chance(), id=id, on_conflict="attach")
            await asyncio.sleep(0.02)
    async with make_app(database) as app:
        found: list[list[str]] = []
        for id in ("one", "other"):
            await app.send(go_on, "now", to=id)
            found.append(await (await app.get(id)).result())
    assert draws["drawn"] == 4
    assert not set(found[0]) & set(found[1])
    assert datetime.fromisoformat(found[0][2]).tzinfo is not None
