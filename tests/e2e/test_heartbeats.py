"""Heartbeats: an attempt that stops beating is timed out, and the next one goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from romancy import (
    ActivityTimedOutError,
    App,
    Channel,
    CodecError,
    OutsideWorkflowError,
    PayloadTooLargeError,
    RetryPolicy,
    WorkflowCancelledError,
    activity,
    activity_info,
    heartbeat,
    workflow,
)
from romancy.errors import SessionLostError
from romancy.storage.protocol import Storage
from romancy.worker import heartbeats

from .conftest import MakeApp
from .faults import Fault, FaultyStorage, OffsetClock, StorageProxy, insist
from .sweep import Scenario, act, events_of, outcome_of, sweep
from .tables import rows_of

pytestmark = pytest.mark.anyio

_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=0.0)

go_on = Channel("beats_go_on", str)


class World:
    """What the activities below have seen."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.begun = asyncio.Event()
        self.may_end = threading.Event()


world = World()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global world  # noqa: PLW0603 - what the definitions below look at
    world = World()


async def until(is_true: Callable[[], object]) -> None:
    """Wait for what another thread or task does."""
    while not is_true():
        await asyncio.sleep(0.001)


# -- the heartbeat time-out ------------------------------------------------------------------------------


@activity(heartbeat_timeout=0.05, retry=_AT_ONCE)
async def beats_chunks(chunks: int) -> list[int]:
    info = activity_info()
    first = info.heartbeat_details or 0
    world.seen.append((info.attempt, info.heartbeat_details))
    for chunk in range(first, chunks):
        heartbeat(chunk)
        await asyncio.sleep(0.001)
        if info.attempt == 1 and chunk == 7:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                try:
                    heartbeat(99)
                except asyncio.CancelledError:
                    world.seen.append("a dead attempt does not beat")
                return [99]
    return list(range(first, chunks))


@workflow
async def beat_chunks() -> list[int]:
    return await beats_chunks(10)


async def test_heartbeat_time_out_hands_the_details_to_the_next_attempt(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_app() as app:
        handle = await app.start(beat_chunks(), id="one")
        assert await handle.result() == [7, 8, 9]
        kinds = [event.kind for event in await handle.history()]
        payload = (await handle.history())[0].payload or ""
    assert world.seen == [(1, None), "a dead attempt does not beat", (2, 7)]
    assert kinds == ["activity_retried", "activity_completed", "run_completed"]
    assert '"details":7' in payload
    assert "has not called heartbeat() for 0.05 s (heartbeat_timeout)" in payload
    assert "test_heartbeats.py" in payload  # where the attempt was
    assert "its outcome is dropped" in caplog.text


@activity(heartbeat_timeout=0.05, retry=RetryPolicy.none())
def beats_never() -> str:
    world.may_end.wait(5)
    try:
        heartbeat("late")
    except asyncio.CancelledError:
        world.seen.append("told to stop")
        raise
    return "late"


@workflow
async def beat_never() -> list[object]:
    try:
        return [await beats_never()]
    except ActivityTimedOutError as exc:
        await go_on.receive()
        return [exc.kind, exc.attempts]


async def test_threaded_body_without_a_heartbeat_is_timed_out_and_hears_of_it_by_its_next(
    database: str, make_app: MakeApp
) -> None:
    async with make_app(database) as app:
        handle = await app.start(beat_never(), id="one")
        while not await handle.history():
            await asyncio.sleep(0.001)
        world.may_end.set()
        await until(lambda: world.seen)
    assert world.seen == ["told to stop"]
    async with make_app(database) as app:  # the class and the kind are the same on replay
        await app.send(go_on, "now", to="one")
        assert await (await app.get("one")).result() == ["heartbeat_timeout", 1]


@activity(heartbeat_timeout=0.1, retry=RetryPolicy.none())
def beats_steadily() -> str:
    until_then = time.monotonic() + 0.3
    while time.monotonic() < until_then:
        heartbeat()
        time.sleep(0.005)
    return "done"


@workflow
async def beat_steadily() -> str:
    return await beats_steadily()


async def test_heartbeats_without_details_keep_a_thread_alive(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(beat_steadily()) == "done"


@activity
async def beats_with_options() -> str:
    await asyncio.sleep(3600)
    return "never"


@workflow
async def beat_with_options() -> str:
    try:
        return await beats_with_options.options(heartbeat_timeout=0.01, retry=RetryPolicy.none())()
    except ActivityTimedOutError as exc:
        return exc.kind


async def test_heartbeat_timeout_can_be_given_per_call(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(beat_with_options()) == "heartbeat_timeout"


# -- details ---------------------------------------------------------------------------------------------


@activity(retry=_AT_ONCE)
async def beats_then_fails(failures: int) -> list[object]:
    info = activity_info()
    world.seen.append(info.heartbeat_details)
    if info.attempt == 1:
        heartbeat({"chunk": (1, 2)})
        heartbeat()
    if info.attempt <= failures:
        raise ConnectionError("away")
    return [info.attempt, info.heartbeat_details]


@workflow
async def beat_then_fail(failures: int) -> list[object]:
    return await beats_then_fails(failures)


async def test_details_survive_failed_attempts_that_do_not_beat(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(beat_then_fail(3)) == [4, {"chunk": [1, 2]}]
    assert world.seen == [None, *[{"chunk": [1, 2]}] * 3]


@activity(retry=RetryPolicy.none())
async def beats_badly() -> list[str]:
    told: list[str] = []
    for details in (object(), "x" * 2_000):
        try:
            heartbeat(details)
        except (CodecError, PayloadTooLargeError) as exc:
            told.append(f"{type(exc).__name__}: {exc}")
    return told


@workflow
async def beat_badly() -> list[str]:
    return await beats_badly()


async def test_details_that_can_not_be_kept_are_refused_at_the_call(make_app: MakeApp) -> None:
    async with make_app(payload_limit=1_000) as app:
        first, second = await app.run(beat_badly())
    assert first.startswith("CodecError: heartbeat details of activity 'beats_badly', of type object, can't be")
    assert second.startswith("PayloadTooLargeError: heartbeat details of activity 'beats_badly' is 2,002 bytes")


def test_heartbeat_outside_of_an_activity_is_refused() -> None:
    with pytest.raises(OutsideWorkflowError, match=r"heartbeat\(\) was called where no activity of a workflow runs"):
        heartbeat()


# -- crashes ---------------------------------------------------------------------------------------------


@activity(retry=_AT_ONCE)
async def beats_until_told(parts: int) -> list[object]:
    info = activity_info()
    world.seen.append((info.attempt, info.heartbeat_details))
    if info.heartbeat_details is None:
        heartbeat(["part", 3])
        world.begun.set()
        await asyncio.sleep(3600)
    return [info.attempt, info.heartbeat_details]


@workflow
async def beat_until_told() -> list[object]:
    return await beats_until_told(5)


class WatchedStorage(FaultyStorage):
    """Say when heartbeats have been written, and how many at a time."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.beats: list[int] = []

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        result = await super().call(name, *args, **kwargs)
        if name == "beat":
            self.beats.append(len(args[1]))
        return result


_BEATS = "SELECT activity_id, attempt, details FROM heartbeats"


async def test_details_survive_a_crash_and_the_same_attempt_runs_again(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    process = WatchedStorage(shared)
    async with make_app(process.storage, clock=clock, grace=timedelta(0)) as app:
        await app.start(beat_until_told(), id="one")
        await until(lambda: process.beats)
        process.died.set()
    assert await rows_of(shared, _BEATS) == [("1:beats_until_told", 1, b'["part",3]')]
    clock.advance(60)
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        assert await (await app.get("one")).result() == [1, ["part", 3]]
    assert world.seen == [(1, None), (1, ["part", 3])]
    assert await rows_of(shared, _BEATS) == []


async def test_details_are_written_when_the_worker_stops(
    shared: Storage, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "_LONGEST_PACE", 3600.0)
    async with make_app(StorageProxy(shared).storage, grace=timedelta(0)) as app:
        worker = app.worker
        assert worker is not None
        worker._heartbeats._written_at = time.monotonic()  # so that nothing is written by itself
        worker._heartbeats._pace = 3600.0
        await app.start(beat_until_told(), id="one")
        await world.begun.wait()
        assert await rows_of(shared, _BEATS) == []
    async with make_app(StorageProxy(shared).storage) as app:
        assert await (await app.get("one")).result() == [1, ["part", 3]]


async def beat_for_the_sweep(app: App) -> tuple[str, Any]:
    handle = await insist(lambda: app.start(swept_beats(), id="one", on_conflict="attach"))
    return await outcome_of(handle), await events_of(handle)


@activity(retry=_AT_ONCE)
async def beats_in_a_sweep(part: int) -> list[object]:
    info = activity_info()
    act(f"part {part} attempt {info.attempt}")
    if info.attempt < 3:
        heartbeat([part, info.attempt])
        await asyncio.sleep(0.002)  # so that it is written
        raise ConnectionError("away")
    return [info.attempt, info.heartbeat_details]


@workflow
async def swept_beats() -> tuple[list[object], list[object]]:
    return await asyncio.gather(beats_in_a_sweep(1), beats_in_a_sweep(2))


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_details_reach_the_next_attempt_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "_LONGEST_PACE", 0.001)
    await sweep(Scenario([swept_beats], beat_for_the_sweep), clock, hot_limit, fault=fault, is_mortal=is_mortal)


@activity(heartbeat_timeout=0.02, retry=_AT_ONCE)
async def stalls_in_a_sweep(chunks: int) -> tuple[int, list[int]]:
    info = activity_info()
    first = info.heartbeat_details or 0
    if info.attempt > 1:
        return first, list(range(first, chunks))
    for chunk in range(first, 8):
        act(f"chunk {chunk}")
        heartbeat(chunk)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        with contextlib.suppress(asyncio.CancelledError):
            heartbeat(99)
    return 99, []


@workflow
async def swept_stall() -> list[object]:
    found: list[object] = [await stalls_in_a_sweep(10)]
    return [*found, await beats_in_a_sweep(3)]


async def stall_for_the_sweep(app: App) -> tuple[str, Any]:
    handle = await insist(lambda: app.start(swept_stall(), id="one", on_conflict="attach"))
    return await outcome_of(handle), await events_of(handle)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_stalled_attempt_is_followed_from_its_last_heartbeat_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "_LONGEST_PACE", 0.001)
    await sweep(Scenario([swept_stall], stall_for_the_sweep), clock, hot_limit, fault=fault, is_mortal=is_mortal)


# -- how often they are written --------------------------------------------------------------------------


@activity
async def beats_side_by_side(number: int) -> None:
    for part in range(50):
        heartbeat([number, part])
        await asyncio.sleep(0.002)


@workflow
async def beat_side_by_side() -> None:
    await asyncio.gather(*(beats_side_by_side(number) for number in range(20)))


async def test_heartbeats_of_all_activities_share_few_storage_calls(shared: Storage, make_app: MakeApp) -> None:
    process = WatchedStorage(shared)
    async with make_app(process.storage) as app:
        began = time.monotonic()
        await app.run(beat_side_by_side())
        took = time.monotonic() - began
    assert len(process.beats) <= 2 + took
    assert await rows_of(shared, _BEATS) == []


async def test_activity_that_never_beats_writes_no_heartbeat(shared: Storage, make_app: MakeApp) -> None:
    process = WatchedStorage(shared)
    async with make_app(process.storage) as app:
        assert await app.run(beat_with_options()) == "heartbeat_timeout"
    assert process.beats == []


async def test_heartbeat_timeout_sets_the_pace_of_writing(shared: Storage, make_app: MakeApp) -> None:
    process = WatchedStorage(shared)
    async with make_app(process.storage) as app:
        await app.start(beat_often(), id="one")
        await until(lambda: len(process.beats) >= 3)  # it would take more than 2 s otherwise
        assert process.beats == [1, 1, 1]
        await (await app.get("one")).terminate()
    assert await rows_of(shared, _BEATS) == []


@activity(heartbeat_timeout=0.3)
async def beats_often() -> None:
    for number in range(100_000):
        heartbeat(number)
        await asyncio.sleep(0.001)


@workflow
async def beat_often() -> None:
    async with asyncio.timeout(1):
        await beats_often()


# -- who is told to stop ---------------------------------------------------------------------------------


@activity
def beats_in_a_thread() -> str:
    try:
        while True:
            heartbeat()
            world.seen.append("beat")
            time.sleep(0.001)
    except asyncio.CancelledError:
        world.seen.append("told to stop")
        raise


@workflow
async def beat_in_a_thread() -> str:
    return await beats_in_a_thread()


@workflow
async def beat_in_a_thread_for_a_moment() -> str:
    try:
        async with asyncio.timeout(0.2):
            return await beats_in_a_thread()
    except TimeoutError:
        return "withdrawn"


async def test_thread_of_a_cancelled_run_is_told_by_its_heartbeat(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(beat_in_a_thread(), id="one")
        await until(lambda: world.seen)
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        await until(lambda: world.seen[-1] == "told to stop")


async def test_thread_of_a_withdrawn_activity_is_told_by_its_heartbeat(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(beat_in_a_thread_for_a_moment()) == "withdrawn"
        await until(lambda: world.seen[-1] == "told to stop")


async def test_thread_is_told_by_its_heartbeat_when_the_worker_stops(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_app(grace=timedelta(0)) as app:
        await app.start(beat_in_a_thread(), id="one")
        await until(lambda: world.seen)
    assert world.seen[-1] == "told to stop"
    assert "left behind" not in caplog.text


async def test_thread_is_told_by_its_heartbeat_when_the_session_is_lost(
    shared: Storage, clock: OffsetClock, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    class Expiring(StorageProxy):
        is_lost = False

        async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
            if self.is_lost and name in {"claim", "open_session"}:
                await asyncio.sleep(3600)
            if self.is_lost and name == "renew_session":
                raise SessionLostError("injected: the session is lost")
            return await super().call(name, *args, **kwargs)

    caplog.set_level(logging.ERROR, "romancy")
    storage = Expiring(shared)
    async with make_app(storage.storage, clock=clock, session_ttl=timedelta(seconds=1), grace=timedelta(0)) as app:
        await app.start(beat_in_a_thread(), id="one")
        await until(lambda: world.seen)
        storage.is_lost = True
        await until(lambda: world.seen[-1] == "told to stop")


async def test_heartbeat_after_the_body_has_returned_is_refused(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(beat_later()) == "done"
        await until(lambda: world.seen)
    assert world.seen == ["CancelledError"]


@activity
async def beats_later() -> str:
    async def linger() -> None:
        await asyncio.sleep(0.01)
        try:
            heartbeat("late")
        except asyncio.CancelledError as exc:
            world.seen.append(type(exc).__name__)

    _lingering.append(asyncio.create_task(linger()))
    return "done"


_lingering: list[asyncio.Task[None]] = []


@workflow
async def beat_later() -> str:
    return await beats_later()
