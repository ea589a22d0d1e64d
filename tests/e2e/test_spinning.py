"""A workflow that never waits is blocked, with its stack, and nobody else notices."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from romancy import WorkflowBlockedError, activity, workflow
from romancy.core.definitions import Workflow

from .conftest import MakeApp

pytestmark = pytest.mark.anyio

_SHORT = timedelta(seconds=1)
"""A session so short that a turn is interrupted after half a second."""

is_mended = False
bodies: Counter[str] = Counter()
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global is_mended, may_end  # noqa: PLW0603 - what the definitions below look at
    is_mended = False
    may_end = asyncio.Event()
    bodies.clear()


@activity
async def spinning_prepare(what: str) -> str:
    bodies[what] += 1
    return what


@activity
async def spinning_slow(what: str) -> str:
    bodies[what] += 1
    await may_end.wait()
    return what


@workflow
async def spins_on_a_flag() -> str:
    await spinning_prepare("flag")
    while not is_mended:
        await asyncio.sleep(0)
    return "mended"


@workflow
async def spins_hard() -> str:
    await spinning_prepare("hard")
    while not is_mended:
        pass
    return "mended"


@workflow
async def spins_beside_a_wait() -> str:
    waiting = asyncio.create_task(asyncio.sleep(3600))
    while not is_mended:
        await asyncio.sleep(0)
    waiting.cancel()
    return "mended"


@workflow
async def does_its_work(n: int) -> int:
    await spinning_slow(f"work {n}")
    await asyncio.sleep(0.001)
    return n


SPINNERS: list[Workflow[[], str]] = [spins_on_a_flag, spins_hard, spins_beside_a_wait]


@pytest.mark.parametrize("spinner", SPINNERS, ids=lambda spinner: spinner.name)
async def test_spinning_workflow_is_blocked_with_its_stack_and_no_other(
    make_app: MakeApp, spinner: Workflow[[], str]
) -> None:
    async with make_app(session_ttl=_SHORT) as app:
        before = [await app.start(does_its_work(n), id=f"before-{n}") for n in range(3)]
        bad = await app.start(spinner(), id="bad")
        after = [await app.start(does_its_work(n), id=f"after-{n}") for n in range(3, 6)]
        with pytest.raises(WorkflowBlockedError) as caught:
            await bad.result()
        assert await bad.status() == "blocked"
        may_end.set()
        assert [await handle.result() for handle in before + after] == list(range(6))
        assert {bodies[f"work {n}"] for n in range(6)} == {1}
        assert spinner.name in caught.value.stack
        assert "test_spinning.py" in caught.value.stack
        assert "\n" not in caught.value.reason
        assert "bad" in str(caught.value)
        info = await bad.info()
        assert info.failure is not None
        assert info.failure.message == caught.value.reason
        assert not info.is_owned


@pytest.mark.parametrize("spinner", SPINNERS, ids=lambda spinner: spinner.name)
async def test_spinning_workflow_goes_on_under_another_build(
    make_app: MakeApp, database: str, spinner: Workflow[[], str]
) -> None:
    global is_mended  # noqa: PLW0603
    async with make_app(database, session_ttl=_SHORT, build="bad") as app:
        with pytest.raises(WorkflowBlockedError):
            await app.run(spinner(), id="bad")
    is_mended = True
    async with make_app(database, build="bad") as app:
        with pytest.raises(WorkflowBlockedError):
            await app.run(spinner(), id="bad")
    async with make_app(database, build="good") as app:
        handle = await app.get("bad")
        assert await handle.result(wait_blocked=True) == "mended"
    assert not [what for what, times in bodies.items() if times > 1]
