"""Activities out of time, whatever their bodies do about it; and what they fail with."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from romancy import (
    ActivityFailedError,
    ActivityTimedOutError,
    App,
    Channel,
    RetryAfter,
    RetryPolicy,
    WorkflowFailedError,
    activity,
    activity_info,
    workflow,
)
from romancy.storage.protocol import Storage
from romancy.worker import activities as bodies

from .conftest import MakeApp
from .faults import Fault, OffsetClock, StorageProxy, insist
from .sweep import Scenario, act, events_of, outcome_of, sweep

pytestmark = pytest.mark.anyio

_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=0.0)

go_on = Channel("time_outs_go_on", str)


class World:
    """What the activities below have done."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()


world = World()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global world  # noqa: PLW0603 - what the definitions below look at
    world = World()


async def until(is_true: Callable[[], object]) -> None:
    while not is_true():
        await asyncio.sleep(0.001)


# -- bodies that do not stop -----------------------------------------------------------------------------


@activity(retry=RetryPolicy.none())
async def stubborn() -> str:
    while not world.may_end.is_set():
        try:
            await world.may_end.wait()
        except asyncio.CancelledError:
            world.seen.append("suppressed")
    world.seen.append("ended")
    return "too late"


@workflow
async def endure(kind: str) -> list[object]:
    limits: dict[str, Any] = {kind: 0.1}
    try:
        return [await stubborn.options(**limits)()]
    except ActivityTimedOutError as exc:
        return [exc.kind, exc.attempts]


@pytest.mark.parametrize("kind", ["timeout", "total_timeout", "heartbeat_timeout"])
async def test_body_that_suppresses_its_cancellation_is_timed_out_all_the_same(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(bodies, "_CANCEL_PATIENCE", 0.01)
    async with make_app() as app:
        handle = await app.start(endure(kind), id="one")
        assert await handle.result() == [kind, 1]
        assert [event.kind for event in await handle.history()] == ["activity_failed", "run_completed"]
        assert world.seen == ["suppressed"]
        await until(lambda: "does not end although it was timed out" in caplog.text)
        world.may_end.set()
        await until(lambda: "has ended after it was timed out: its outcome is dropped" in caplog.text)
        assert [event.kind for event in await handle.history()] == ["activity_failed", "run_completed"]
    assert world.seen == ["suppressed", "ended"]
    assert "attempt 1 at 1:stubborn of instance 'one'" in caplog.text


@activity(timeout=0.02, retry=_AT_ONCE)
async def tidy() -> int:
    attempt = activity_info().attempt
    world.seen.append(f"{attempt} begins")
    if attempt == 1:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            world.seen.append(f"{attempt} is clean")
    return attempt


@workflow
async def tidily() -> int:
    return await tidy()


async def test_next_attempt_waits_for_a_timed_out_one_to_clean_up(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(tidily()) == 2
    assert world.seen == ["1 begins", "1 is clean", "2 begins"]


@activity(timeout=0.02, retry=RetryPolicy(initial_interval=0.001, max_attempts=2))
async def untidy() -> None:
    world.seen.append(activity_info().attempt)
    while not world.may_end.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await world.may_end.wait()


@workflow
async def untidily() -> int:
    try:
        await untidy()
    except ActivityTimedOutError as exc:
        return exc.attempts
    return 0


async def test_next_attempt_does_not_wait_for_ever_for_a_timed_out_one(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_CLEANUP_PATIENCE", 0.01)
    async with make_app() as app:
        assert await app.run(untidily()) == 2
        assert world.seen == [1, 2]
        world.may_end.set()


@activity(timeout=0.02, retry=_AT_ONCE)
async def outlasts() -> int:
    attempt = activity_info().attempt
    world.seen.append(f"{attempt} begins")
    if attempt == 1:
        while not world.may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await world.may_end.wait()
        world.begun.set()
    elif attempt == 2:
        try:
            await asyncio.sleep(3600)
        finally:
            world.may_end.set()
            await world.begun.wait()  # the first attempt has ended
            await asyncio.sleep(0.05)
            world.seen.append("2 is clean")
    return attempt


@workflow
async def outlast() -> int:
    return await outlasts()


async def test_next_attempt_waits_for_the_one_before_it_though_an_earlier_one_ends(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_CLEANUP_PATIENCE", 0.3)
    async with make_app() as app:
        assert await app.run(outlast()) == 3
    assert world.seen == ["1 begins", "2 begins", "2 is clean", "3 begins"]


async def test_time_out_tells_where_the_body_was(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(tell_where(), id="one")
        with pytest.raises(WorkflowFailedError) as caught:
            await handle.result()
    failure = caught.value.failure
    assert failure is not None
    assert "in waits_somewhere" in failure.traceback
    assert "world.may_end.wait()" in failure.traceback


@activity(timeout=0.02, retry=RetryPolicy.none())
async def waits_somewhere() -> None:
    await world.may_end.wait()


@workflow
async def tell_where() -> None:
    await waits_somewhere()


# -- total_timeout ---------------------------------------------------------------------------------------


@activity(total_timeout=0.2, retry=RetryPolicy(max_duration=None))
async def asks_for_too_much() -> None:
    world.seen.append(activity_info().attempt)
    raise RetryAfter(3600, "come back in an hour")


@workflow
async def ask_for_too_much() -> str:
    try:
        await asks_for_too_much()
    except RetryAfter as exc:
        return str(exc)
    return "done"


async def test_retry_after_does_not_outlast_total_timeout(make_app: MakeApp) -> None:
    async with make_app() as app:
        began = time.monotonic()
        assert await app.run(ask_for_too_much()) == "come back in an hour"
        assert time.monotonic() - began < 5
    assert world.seen == [1]


@activity
async def occupies() -> None:
    world.begun.set()
    await world.may_end.wait()


@activity(total_timeout=0.05, retry=RetryPolicy.none())
async def waits_for_room() -> str:
    world.seen.append("it ran")
    return "it ran"


@workflow
async def wait_for_room() -> list[str]:
    occupation = asyncio.ensure_future(occupies())
    await asyncio.sleep(0)  # so that it comes first
    found: list[str] = []
    try:
        found.append(await waits_for_room())
    except ActivityTimedOutError as exc:
        found.append(exc.kind)
    await go_on.receive()
    await occupation
    return [*found, await waits_for_room()]


async def test_total_timeout_counts_while_an_activity_waits_for_room(make_app: MakeApp) -> None:
    async with make_app(max_activities=1) as app:
        handle = await app.start(wait_for_room(), id="one")
        while not await handle.history():
            await asyncio.sleep(0.001)
        assert world.seen == []
        world.may_end.set()
        await app.send(go_on, "now", to="one")
        assert await handle.result() == ["total_timeout", "it ran"]
    assert world.seen == ["it ran"]


@activity(total_timeout=3600, retry=RetryPolicy(initial_interval=1800, max_interval=1800, jitter=0, max_duration=None))
async def comes_back_late() -> None:
    world.seen.append(activity_info().attempt)
    raise ConnectionError("away")


@workflow
async def come_back_late() -> str:
    try:
        await comes_back_late()
    except ActivityTimedOutError as exc:
        return exc.kind
    return "done"


async def test_attempt_that_comes_due_after_total_timeout_is_not_begun(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    ttl = timedelta(hours=9)
    async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=ttl) as app:
        handle = await app.start(come_back_late(), id="one")
        while not await handle.history():
            await asyncio.sleep(0.001)
    clock.advance(3601)  # nobody was there when it was due
    async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=ttl) as app:
        assert await (await app.get("one")).result() == "total_timeout"
    assert world.seen == [1]


# -- asyncio.timeout around an activity ------------------------------------------------------------------


@activity
async def endless(what: str) -> None:
    world.begun.set()
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        world.seen.append(f"{what} is told")
        raise


@activity
async def quick(what: str) -> str:
    act(what) if what.startswith("swept") else world.seen.append(what)
    return what


@workflow
async def under_a_timeout() -> list[str]:
    found: list[str] = []
    try:
        async with asyncio.timeout(0.2):
            await endless("it")
    except TimeoutError:
        found.append("too slow")
    found.append(await quick("the next"))
    found.append(await go_on.receive())
    found.append(await quick("the last"))
    return found


async def test_activity_under_an_expired_timeout_is_told_and_later_ones_persist(
    database: str, make_app: MakeApp
) -> None:
    async with make_app(database) as app:
        handle = await app.start(under_a_timeout(), id="one")
        while len(await handle.history()) < 2:
            await asyncio.sleep(0.001)
        assert sorted(world.seen) == ["it is told", "the next"]
    async with make_app(database) as app:
        await app.send(go_on, "go on", to="one")
        handle = await app.get("one")
        assert await handle.result() == ["too slow", "the next", "go on", "the last"]
        assert [(event.kind, event.activity_id) for event in await handle.history()] == [
            ("timer_fired", "@1"),
            ("activity_completed", "2:quick"),
            ("message_received", "3:time_outs_go_on"),
            ("activity_completed", "4:quick"),
            ("run_completed", None),
        ]
    assert world.seen[-1] == "the last"


@activity
async def endless_in_a_sweep() -> None:
    await asyncio.sleep(3600)


@workflow
async def swept_timeout() -> list[str]:
    found: list[str] = []
    for number in range(2):
        try:
            async with asyncio.timeout(0.005):
                await endless_in_a_sweep()
        except TimeoutError:
            found.append(await quick(f"swept {number}"))
    return found


async def play_timeouts(app: App) -> Any:
    handle = await insist(lambda: app.start(swept_timeout(), id="one", on_conflict="attach"))
    return await outcome_of(handle), await events_of(handle)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_expired_timeouts_replay_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([swept_timeout], play_timeouts)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=8)


# -- what a failure is caught as -------------------------------------------------------------------------


class VanishingError(Exception):
    """Its class is removed by a deployment."""


class DemandingError(Exception):
    """It can't be made again from its args."""

    def __init__(self, card: str, *, code: int) -> None:
        super().__init__(f"card {card} failed with {code}")


class MuteError(Exception):
    """It can't be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


_ERRORS: dict[str, Callable[[], Exception]] = {
    "vanishing": lambda: VanishingError("gone with the deployment"),
    "demanding": lambda: DemandingError("1234", code=7),
    "mute": lambda: MuteError("unspeakable"),
}


@activity(retry=RetryPolicy.none())
async def fails_with(error: str) -> None:
    failure = _ERRORS[error]()
    raise failure from OSError("the line is dead")


@workflow
async def fail_with(error: str) -> list[object]:
    found: list[object] = []
    try:
        await fails_with(error)
    except ActivityFailedError as exc:
        failure = exc.failure
        assert failure is not None
        cause = failure.cause
        assert cause is not None
        found = [failure.type.rpartition(":")[2], failure.message, "in fails_with" in failure.traceback, cause.message]
        found.append(failure.type in str(exc) and failure.message in str(exc))
    except Exception as exc:
        found = [type(exc).__name__, *exc.args, str(exc.__cause__)]
    await go_on.receive()
    return found


@workflow
async def fail_for_good(error: str) -> None:
    await fails_with(error)


async def test_failure_whose_class_can_not_be_made_again_is_told_live_and_on_replay(
    database: str, make_app: MakeApp
) -> None:
    told = ["DemandingError", "card 1234 failed with 7", True, "the line is dead", True]
    async with make_app(database) as app:
        handle = await app.start(fail_with("demanding"), id="one")
        other = await app.start(fail_with("demanding"), id="live")
        for started in (handle, other):
            while not await started.history():
                await asyncio.sleep(0.001)
        await app.send(go_on, "now", to="live")
        assert await other.result() == told
    async with make_app(database) as app:
        await app.send(go_on, "now", to="one")
        assert await (await app.get("one")).result() == told


async def test_failure_whose_class_is_gone_is_told_on_replay(
    database: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_app(database) as app:
        handle = await app.start(fail_with("vanishing"), id="one")
        other = await app.start(fail_with("vanishing"), id="live")
        for started in (handle, other):
            while not await started.history():
                await asyncio.sleep(0.001)
        await app.send(go_on, "now", to="live")
        assert await other.result() == ["VanishingError", "gone with the deployment", "the line is dead"]
    monkeypatch.delattr(sys.modules[__name__], "VanishingError")
    async with make_app(database) as app:
        await app.send(go_on, "now", to="one")
        assert await (await app.get("one")).result() == [
            "VanishingError",
            "gone with the deployment",
            True,
            "the line is dead",
            True,
        ]


@pytest.mark.parametrize("error", sorted(_ERRORS))
async def test_failure_that_can_not_be_told_still_ends_the_run(make_app: MakeApp, error: str) -> None:
    async with make_app() as app:
        with pytest.raises(WorkflowFailedError):
            await app.run(fail_for_good(error))


# -- and all of it at every commit -----------------------------------------------------------------------


@activity(timeout=0.02, retry=RetryPolicy(initial_interval=0.001, jitter=0, max_attempts=2))
async def outlives_in_a_sweep() -> str:
    act(f"attempt {activity_info().attempt}")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(3600)
    return "too late"


@workflow
async def swept_failures() -> None:
    found: list[object] = []
    try:
        found.append(await outlives_in_a_sweep())
    except ActivityTimedOutError as exc:
        found += [exc.kind, exc.attempts]
    try:
        await fails_with("vanishing")
    except VanishingError as exc:
        found += [type(exc).__name__, *exc.args]
    try:
        await fails_with("demanding")
    except ActivityFailedError as exc:
        found += [str(exc), exc.attempts]
    await quick(f"swept {found}")
    await fails_with("mute")


async def play_failures(app: App) -> Any:
    handle = await insist(lambda: app.start(swept_failures(), id="one", on_conflict="attach"))
    return await outcome_of(handle), await events_of(handle)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_failures_are_caught_as_what_they_are_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([swept_failures], play_failures)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal)


# -- bodies without a time limit -------------------------------------------------------------------------


@activity(name="time_outs_lasting")
async def lasting() -> str:
    await world.may_end.wait()
    return "ended"


@workflow(name="time_outs_lasting")
async def waits_for_long(is_bounded: bool) -> str:
    return await (lasting.options(timeout=60)() if is_bounded else lasting())


async def test_long_body_without_a_time_limit_is_logged_once(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bodies, "_LONG", 0.05)
    async with make_app(idle_timeout=timedelta(milliseconds=40)) as app:
        handles = [await app.start(waits_for_long(is_bounded), id=f"{is_bounded}") for is_bounded in (False, True)]
        await until(lambda: caplog.messages)
        await asyncio.sleep(0.15)
        world.may_end.set()
        assert [await handle.result() for handle in handles] == ["ended", "ended"]
    (message,) = caplog.messages
    assert "attempt 1 at 1:time_outs_lasting of instance 'False' has run for 0 minutes without" in message
