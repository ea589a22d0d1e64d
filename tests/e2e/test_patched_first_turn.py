"""`patched` in a run of which nothing is recorded yet: who began it tells whether it has gone by."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from romancy import WorkflowBlockedError, activity, patched, recur, workflow
from romancy.core.definitions import Workflow
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import OffsetClock, StorageProxy

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

bodies: Counter[str] = Counter()
gate = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global gate  # noqa: PLW0603 - activities are functions without a place for it
    bodies.clear()
    gate = asyncio.Event()


@activity
async def first_turn_step(name: str) -> str:
    bodies[name] += 1
    await gate.wait()
    return name


async def old_code() -> list[str]:
    return [await first_turn_step("old")]


async def patched_code() -> list[str]:
    return [await first_turn_step("new" if patched("first") else "old")]


async def broken_code() -> list[str]:
    raise NameError("typo")


def deployments(name: str, *codes: Callable[[], Any]) -> list[Workflow[[], list[str]]]:
    """Return one workflow as deployments one after the other have it."""

    def deployed(code: Callable[[], Any]) -> Workflow[[], list[str]]:
        async def run() -> list[str]:
            found: list[str] = await code()
            return found

        return workflow(name=name)(run)

    return [deployed(code) for code in codes]


async def under_way(name: str) -> None:
    while not bodies[name]:
        await asyncio.sleep(0.001)


NO_GRACE: dict[str, Any] = {"grace": timedelta(0)}


async def test_run_in_its_first_activity_keeps_the_old_path(database: str, make_app: MakeApp) -> None:
    old, new = deployments("first_turn_deployed", old_code, patched_code)
    async with make_app(database, workflows=[old], build="1", **NO_GRACE) as app:
        handle = await app.start(old(), id="one")
        await under_way("old")
        assert not await handle.history()
    for build in ("2", "3"):  # the second finds nothing recorded either
        bodies.clear()
        async with make_app(database, workflows=[new], build=build, **NO_GRACE):
            await under_way("old")
    gate.set()
    async with make_app(database, workflows=[new], build="4") as app:
        assert await (await app.get("one")).result() == ["old"]
        assert await app.run(new()) == ["new"]


async def test_run_that_nobody_had_begun_takes_the_new_path(database: str, make_app: MakeApp) -> None:
    old, new = deployments("first_turn_pending", old_code, patched_code)
    gate.set()
    async with make_app(database, workflows=[old], build="1", worker=False) as app:
        await app.start(old(), id="one")
    async with make_app(database, workflows=[new], build="2") as app:
        assert await (await app.get("one")).result() == ["new"]


async def test_run_keeps_the_new_path_from_build_to_build(database: str, make_app: MakeApp) -> None:
    (new,) = deployments("first_turn_kept", patched_code)
    async with make_app(database, workflows=[new], build="1", **NO_GRACE) as app:
        await app.start(new(), id="one")
        await under_way("new")
    gate.set()
    async with make_app(database, workflows=[new], build="2") as app:
        assert await (await app.get("one")).result() == ["new"]


async def test_build_that_took_over_an_owner_that_died_keeps_the_old_path(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    old, new = deployments("first_turn_killed", old_code, patched_code)
    dying = StorageProxy(shared)
    async with make_app(dying.storage, workflows=[old], build="1", clock=clock, **NO_GRACE) as app:
        await app.start(old(), id="one")
        await under_way("old")
        clock.advance(60)  # the session has expired, and nothing of its owner reaches the database any more
        gate.set()
        async with make_app(StorageProxy(shared).storage, workflows=[new], build="2", clock=clock) as other:
            assert await (await other.get("one")).result() == ["old"]


async def test_first_turn_that_its_build_could_not_go_on_with_begins_anew(database: str, make_app: MakeApp) -> None:
    broken, new = deployments("first_turn_broken", broken_code, patched_code)
    gate.set()
    async with make_app(database, workflows=[broken], build="1") as app:
        handle = await app.start(broken(), id="one")
        with pytest.raises(WorkflowBlockedError, match="typo"):
            await handle.result()
    async with make_app(database, workflows=[new], build="2") as app:
        assert await (await app.get("one")).result() == ["new"]


async def test_old_path_outlasts_a_build_that_could_not_go_on(database: str, make_app: MakeApp) -> None:
    old, broken, new = deployments("first_turn_broken_later", old_code, broken_code, patched_code)
    async with make_app(database, workflows=[old], build="1", **NO_GRACE) as app:
        await app.start(old(), id="one")
        await under_way("old")
    gate.set()
    async with make_app(database, workflows=[broken], build="2") as app:
        with pytest.raises(WorkflowBlockedError, match="typo"):
            await (await app.get("one")).result()
    async with make_app(database, workflows=[new], build="3") as app:
        assert await (await app.get("one")).result() == ["old"]


async def test_next_run_of_recur_is_begun_by_the_build_that_opens_it(database: str, make_app: MakeApp) -> None:
    async def recurs_old(run: int) -> list[str]:
        if run == 0:
            recur(first(1))
        return [await first_turn_step("old")]

    async def recurs_new(run: int) -> list[str]:
        return [await first_turn_step("new" if patched("first") else "old")]

    first = workflow(name="first_turn_recurs")(recurs_old)
    async with make_app(database, workflows=[first], build="1", **NO_GRACE) as app:
        await app.start(first(0), id="one")
        await under_way("old")
    second = workflow(name="first_turn_recurs")(recurs_new)
    gate.set()
    async with make_app(database, workflows=[second], build="2") as app:
        assert await (await app.get("one")).result() == ["old"]
