"""Attempts, back-offs and time-outs of activities."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from romancy import (
    ActivityFailedError,
    ActivityTimedOutError,
    Channel,
    NonRetryableError,
    RetryAfter,
    RetryPolicy,
    WorkflowFailedError,
    activity,
    activity_info,
    workflow,
)
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import FaultyStorage, OffsetClock, StorageProxy

pytestmark = pytest.mark.anyio

_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=0.0)
_IN_AN_HOUR = RetryPolicy(
    initial_interval=timedelta(hours=1), max_interval=timedelta(hours=1), max_duration=None, max_attempts=4
)

go_on = Channel("retries_go_on", str)
attempts: list[int] = []
tried = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global tried  # noqa: PLW0603 - what the definitions below look at
    tried = asyncio.Event()
    attempts.clear()


class CardDeclinedError(Exception):
    """The card was declined."""

    def __init__(self, card: str, code: int) -> None:
        super().__init__(card, code)
        self.card = card
        self.code = code


@activity
async def retried(failures: int, error: str) -> int:
    attempts.append(activity_info().attempt)
    tried.set()
    if len(attempts) <= failures:
        match error:
            case "non-retryable":
                raise NonRetryableError("never")
            case "programming":
                wrong: Any = None
                wrong.no_such_attribute()
            case "after":
                raise RetryAfter(timedelta(milliseconds=30), "the bank is closed")
            case "declined":
                raise CardDeclinedError("1234", 7)
            case _:
                raise ConnectionError(f"{error} {len(attempts)}")
    return len(attempts)


@activity(timeout=0.02, retry=_AT_ONCE)
async def retried_too_slow() -> None:
    attempts.append(activity_info().attempt)
    await asyncio.sleep(3600)


@activity(timeout=0.02, retry=RetryPolicy.none())
def retried_too_slow_thread() -> None:
    attempts.append(activity_info().attempt)
    time.sleep(0.2)


@activity
async def retried_times_out_by_itself() -> None:
    attempts.append(activity_info().attempt)
    raise TimeoutError("of its own")


@workflow
async def retry_at_once(failures: int, error: str) -> int:
    return await retried.options(retry=_AT_ONCE)(failures, error)


@workflow
async def retry_hourly(failures: int) -> int:
    return await retried.options(retry=_IN_AN_HOUR)(failures, "away")


@workflow
async def retry_total() -> str:
    try:
        await retried_too_slow.options(timeout=60, total_timeout=0.05)()
    except ActivityTimedOutError as exc:
        return exc.kind
    return "in time"


@workflow
async def retry_hopeless() -> int:
    return await retried.options(retry=_IN_AN_HOUR, total_timeout=60)(3, "away")


@workflow
async def retry_timeout() -> list[object]:
    try:
        await retried_too_slow.options(retry=RetryPolicy(initial_interval=timedelta(milliseconds=1), max_attempts=2))()
    except ActivityTimedOutError as exc:
        return [exc.kind, exc.attempts, "1:retried_too_slow" in str(exc)]
    return []


@workflow
async def retry_timeout_of_a_thread() -> str:
    try:
        await retried_too_slow_thread()
    except ActivityTimedOutError as exc:
        return exc.kind
    return "in time"


@workflow
async def retry_own_timeout() -> str:
    try:
        await retried_times_out_by_itself.options(retry=RetryPolicy.none())()
    except ActivityTimedOutError:
        return "romancy's"
    except TimeoutError as exc:
        return str(exc)
    return "in time"


@workflow
async def retry_declined() -> list[object]:
    found: list[object] = []
    try:
        await retried.options(retry=RetryPolicy.none())(1, "declined")
    except CardDeclinedError as exc:
        found = [type(exc).__name__, exc.card, exc.code]
    await go_on.receive()
    return found


@activity(retry=RetryPolicy.none())
async def retried_unimportable() -> None:
    class HiddenError(Exception):
        pass

    raise HiddenError("nobody can import me")


@workflow
async def retry_unimportable() -> list[object]:
    try:
        await retried_unimportable()
    except ActivityFailedError as exc:
        return ["HiddenError" in str(exc), "nobody can import me" in str(exc), "raise HiddenError" in str(exc)]
    return []


async def test_failed_attempts_are_counted_and_repeated(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(retry_at_once(3, "away"))
        assert await handle.result() == 4
        kinds = [event.kind for event in await handle.history()]
    assert attempts == [1, 2, 3, 4]
    assert kinds == [*["activity_retried"] * 3, "activity_completed", "run_completed"]


@pytest.mark.parametrize(("error", "told"), [("non-retryable", "never"), ("programming", "no_such_attribute")])
async def test_what_is_not_worth_another_attempt_fails_at_once(make_app: MakeApp, error: str, told: str) -> None:
    async with make_app() as app:
        with pytest.raises(Exception, match=told):
            await app.run(retry_at_once(3, error))
    assert attempts == [1]


async def test_retry_after_delays_the_next_attempt(make_app: MakeApp) -> None:
    async with make_app() as app:
        began = time.monotonic()
        assert await app.run(retry_at_once(1, "after")) == 2
        assert time.monotonic() - began >= 0.03
    assert attempts == [1, 2]


async def test_attempts_and_back_off_survive_restarts(shared: Storage, clock: OffsetClock, make_app: MakeApp) -> None:
    for expected in (1, 2, 3):
        tried.clear()
        async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=timedelta(hours=9)) as app:
            handle = await app.start(retry_hourly(3), id="one", on_conflict="attach")
            await tried.wait()
            while len(await handle.history()) < expected:
                await asyncio.sleep(0.001)
        assert attempts == list(range(1, expected + 1))
        async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=timedelta(hours=9)):
            # It is too soon for another attempt.
            await asyncio.sleep(0.02)
        assert attempts == list(range(1, expected + 1))
        clock.advance(3601)
    async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=timedelta(hours=9)) as app:
        assert await (await app.get("one")).result() == 4
    assert attempts == [1, 2, 3, 4]


async def test_crash_in_a_body_does_not_reset_its_attempts(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    process = FaultyStorage(shared)
    async with make_app(process.storage, clock=clock, grace=timedelta(0)) as app:
        handle = await app.start(retry_hourly(1), id="one")
        while not await handle.history():
            await asyncio.sleep(0.001)
        process.died.set()
    clock.advance(3700)
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        assert await (await app.get("one")).result() == 2
    assert attempts == [1, 2]


async def test_run_in_back_off_leaves_memory(make_app: MakeApp, hot_limit: int) -> None:
    async with make_app() as app:
        handle = await app.start(retry_hourly(1), id="one")
        while not (info := await handle.info()).wake_at or info.events < 1 or info.is_owned != bool(hot_limit):
            await asyncio.sleep(0.001)
        worker = app.worker
        assert worker is not None
        while worker.hot_count != (1 if hot_limit else 0):
            await asyncio.sleep(0.001)
        assert info.started_at is not None
        assert (info.wake_at - info.started_at) > timedelta(minutes=30)


async def test_time_out_of_an_attempt_tells_its_kind_and_the_attempts(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(retry_timeout()) == ["timeout", 2, True]
    assert attempts == [1, 2]


async def test_time_out_of_all_attempts_ends_the_activity(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(retry_total()) == "total_timeout"
    assert attempts == [1]


async def test_back_off_that_total_timeout_does_not_leave_time_for_ends_with_the_last_error(make_app: MakeApp) -> None:
    async with make_app() as app:
        with pytest.raises(WorkflowFailedError, match="away 1"):
            await app.run(retry_hopeless())
    assert attempts == [1]


async def test_time_out_of_a_threaded_body_is_told_while_the_thread_goes_on(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(retry_timeout_of_a_thread()) == "timeout"


async def test_time_out_that_a_body_raises_is_its_own(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(retry_own_timeout()) == "of its own"


async def test_exception_of_an_activity_is_caught_by_its_class_live_and_on_replay(
    database: str, make_app: MakeApp
) -> None:
    async with make_app(database) as app:
        handle = await app.start(retry_declined(), id="one")
        while not await handle.history():
            await asyncio.sleep(0.001)
    async with make_app(database) as app:
        await app.send(go_on, "now", to="one")
        assert await (await app.get("one")).result() == ["CardDeclinedError", "1234", 7]
    assert attempts == [1]


async def test_exception_that_can_not_be_imported_is_told_in_words(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(retry_unimportable()) == [True, True, True]


async def test_cancelled_run_in_back_off_ends_without_another_attempt(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(retry_hourly(1), id="one")
        while not await handle.history():
            await asyncio.sleep(0.001)
        await handle.cancel()
        with pytest.raises(Exception, match="cancelled"):
            await handle.result()
    assert attempts == [1]


async def test_many_activities_are_bounded_by_max_activities(make_app: MakeApp) -> None:
    running: Counter[str] = Counter()
    peaks: list[int] = []

    async def bounded() -> None:
        running["now"] += 1
        peaks.append(running["now"])
        await asyncio.sleep(0.001)
        running["now"] -= 1

    body = activity(name="retries_bounded")(bounded)

    async def many() -> int:
        return len(await asyncio.gather(*(body() for _ in range(50))))

    definition = workflow(name="retries_many")(many)
    async with make_app(max_activities=5) as app:
        assert await app.run(definition()) == 50
    assert max(peaks) == 5
    assert len(peaks) == 50
