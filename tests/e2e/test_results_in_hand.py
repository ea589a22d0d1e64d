"""What an activity's body ends in while its run can't take it: in the middle of a commit, or of a pause."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from romancy import App, RetryPolicy, activity, activity_info, complete_later, workflow
from romancy.core.events import EventKind
from romancy.core.records import Entry
from romancy.storage.protocol import Storage
from romancy.worker.hot import HotRun

from .conftest import MakeApp
from .faults import MeddlingStorage

pytestmark = pytest.mark.anyio

_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=0.0)
_OFTEN = timedelta(milliseconds=5)


class World:
    """What the activities below have done, and what they wait for."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.tokens: list[str] = []
        self.may_end = {"quick": asyncio.Event(), "slow": asyncio.Event()}


world = World()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global world  # noqa: PLW0603 - what the definitions below look at
    world = World()


async def until(is_true: Callable[[], object]) -> None:
    while not is_true():
        await asyncio.sleep(0.001)


def hot_run(app: App) -> HotRun:
    """Return the only run in memory."""
    worker = app.worker
    assert worker is not None
    (run,) = worker._hot
    return run


# -- while its run is paused -----------------------------------------------------------------------------


@activity
async def in_hand_work(what: str) -> str:
    world.begun.append(what)
    await world.may_end[what].wait()
    world.ended.append(what)
    return what


@workflow
async def in_hand_both() -> tuple[str, str]:
    return await asyncio.gather(in_hand_work("quick"), in_hand_work("slow"))


async def test_activity_that_ended_during_a_pause_is_not_run_again(make_app: MakeApp) -> None:
    async with make_app(poll_interval=_OFTEN) as app:
        handle = await app.start(in_hand_both(), id="one")
        await until(lambda: len(world.begun) == 2)
        await handle.pause()
        await until(lambda: hot_run(app).is_paused)
        world.may_end["quick"].set()
        await until(lambda: hot_run(app).arrivals)
        await handle.unpause()
        await until(lambda: not hot_run(app).is_paused)
        world.may_end["slow"].set()
        assert await handle.result() == ("quick", "slow")
    assert world.begun == ["quick", "slow"]


# -- while an answer from outside is committed -----------------------------------------------------------


@activity(retry=_AT_ONCE)
async def in_hand_sign(is_repeated: bool) -> int:
    world.tokens.append(complete_later())
    if activity_info().attempt == 1:
        await world.may_end["slow"].wait()
    world.ended.append("sign")
    return int(is_repeated)


@workflow
async def in_hand_signing(is_repeated: bool) -> list[object]:
    return [await in_hand_sign(is_repeated), await in_hand_file()]


@activity
async def in_hand_file() -> str:
    return "filed"


@pytest.mark.parametrize("is_repeated", [False, True], ids=["completed", "failed"])
@pytest.mark.parametrize("is_paused", [False, True], ids=["going on", "paused"])
async def test_hand_over_of_an_attempt_that_was_answered_meanwhile_is_dropped(
    shared: Storage, make_app: MakeApp, caplog: pytest.LogCaptureFixture, is_paused: bool, is_repeated: bool
) -> None:
    caplog.set_level(logging.CRITICAL, "romancy")
    meddled: list[bool] = []

    async def end_the_body(entries: Sequence[Entry]) -> None:
        kinds = {note.kind for entry in entries for note in entry.notes}
        if meddled or not kinds & {EventKind.ACTIVITY_COMPLETED, EventKind.ACTIVITY_RETRIED}:
            return
        meddled.append(True)
        world.may_end["slow"].set()
        await until(lambda: hot_run(app).arrivals)
        if is_paused:
            await shared.pause("one")
            await until(lambda: hot_run(app).is_paused)

    storage = MeddlingStorage(shared, after=end_the_body)
    async with make_app(storage.storage, poll_interval=_OFTEN) as app:
        handle = await app.start(in_hand_signing(is_repeated), id="one")
        await until(lambda: world.tokens)
        answer = _failing if is_repeated else _completing
        await answer(app, world.tokens[0])
        await until(lambda: meddled)
        if is_paused:
            while (await handle.info()).is_owned:
                await asyncio.sleep(0.001)
            await handle.unpause()
        if is_repeated:
            await until(lambda: len(world.tokens) > 1)
            await app.complete_activity(world.tokens[1], 7)
        assert await handle.result() == [7, "filed"]


async def _completing(app: App, token: str) -> None:
    await app.complete_activity(token, 7)


async def _failing(app: App, token: str) -> None:
    await app.fail_activity(token, ConnectionError("away"))
