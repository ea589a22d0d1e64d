"""Activities that somebody outside finishes, with a token."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from romancy import (
    ActivityTimedOutError,
    App,
    Channel,
    CodecError,
    InstanceClosedError,
    InstanceNotFoundError,
    NonRetryableError,
    OutsideWorkflowError,
    RetryAfter,
    RetryPolicy,
    WorkflowBlockedError,
    WorkflowFailedError,
    activity,
    activity_info,
    complete_later,
    heartbeat,
    recur,
    workflow,
)
from romancy.core import registry
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import Fault, FaultyStorage, OffsetClock, StorageProxy, insist
from .sweep import Scenario, act, events_of, outcome_of, sweep
from .tables import rows_of

pytestmark = pytest.mark.anyio

_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=0.0)
_LONG = 3600.0

go_on = Channel("outside_go_on", str)


class World:
    """What the activities below have seen, and the tokens that they gave away."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.tokens: list[str] = []
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


async def token_of(app: App, number: int = 0) -> str:
    """Return the n-th token, once its attempt is handed over."""
    await until(lambda: len(world.tokens) > number)
    handle = await app.get("one")
    while sum(event.kind == "activity_handed_over" for event in await handle.history()) <= number:
        await asyncio.sleep(0.001)
    return world.tokens[number]


async def kinds_of(app: App) -> list[str]:
    return [event.kind for event in await (await app.get("one")).history()]


class CardDeclinedError(Exception):
    """The card was declined."""


@activity(retry=_AT_ONCE)
async def outside_sign(document: str) -> int:
    world.seen.append((document, activity_info().attempt, activity_info().heartbeat_details))
    world.tokens.append(complete_later())
    heartbeat(["asked", document])
    world.begun.set()
    return -1


@outside_sign.compensation
async def outside_shred(pages: int, document: str) -> None:
    world.seen.append(("shred", pages, document))


@activity(retry=_AT_ONCE)
def outside_sign_in_a_thread(document: str) -> int:
    world.tokens.append(complete_later())
    return -1


@workflow
async def outside_signing(document: str) -> list[object]:
    pages = await outside_sign(document)
    return [pages, await outside_next(pages)]


@activity
async def outside_next(pages: int) -> str:
    return f"filed {pages} pages"


@workflow
async def outside_threaded() -> int:
    return await outside_sign_in_a_thread("lease")


# -- completing ------------------------------------------------------------------------------------------


async def test_handed_over_activity_is_completed_from_outside(make_app: MakeApp, hot_limit: int) -> None:
    async with make_app() as app:
        handle = await app.start(outside_signing("lease"), id="one")
        token = await token_of(app)
        assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
        info = await handle.info()
        while info.is_owned and not hot_limit:
            info = await handle.info()
        (wait,) = info.waiting_on
        assert (wait["kind"], wait["id"], wait["attempt"]) == ("activity", "1:outside_sign", "1")
        assert info.wake_at is None
        await app.complete_activity(token, 12)
        assert await handle.result() == [12, "filed 12 pages"]
        assert await kinds_of(app) == [
            "activity_handed_over",
            "activity_completed",
            "activity_completed",
            "run_completed",
        ]
    assert world.seen == [("lease", 1, None)]


async def test_threaded_activity_is_completed_from_outside(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_threaded(), id="one")
        await app.complete_activity(await token_of(app), 3)
        assert await handle.result() == 3


async def test_handed_over_activity_survives_restarts_and_is_not_run_again(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    process = FaultyStorage(shared)
    async with make_app(process.storage, clock=clock, grace=timedelta(0)) as app:
        await app.start(outside_signing("lease"), id="one")
        token = await token_of(app)
        process.died.set()
    clock.advance(_LONG)
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        await asyncio.sleep(0.02)
    async with App(StorageProxy(shared).storage, clock=clock, worker=False) as client:
        await client.complete_activity(token, 4)
    clock.advance(_LONG)
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        assert await (await app.get("one")).result() == [4, "filed 4 pages"]
    assert world.seen == [("lease", 1, None)]


async def test_second_answer_to_an_attempt_does_nothing(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_waiting(), id="one")
        token = await token_of(app)
        await app.complete_activity(token, 1)
        await app.complete_activity(token, 2)
        await app.fail_activity(token, ValueError("too late"))
        await app.send(go_on, "now", to="one")
        assert await handle.result() == 1
        await app.complete_activity(token, 3)


@workflow
async def outside_waiting() -> int:
    pages = await outside_sign("lease")
    await go_on.receive()
    return pages


async def test_answer_that_is_faster_than_the_body_is_taken_and_the_body_comes_to_its_end(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_slow_body(), id="one")
        await world.begun.wait()
        await app.complete_activity(world.tokens[0], 5)
        assert await handle.result() == 5
        assert world.seen == []
        world.may_end.set()
        await until(lambda: world.seen)
        assert world.seen == ["not wanted", "ended"]
        assert await kinds_of(app) == ["activity_completed", "run_completed"]


@activity(retry=_AT_ONCE)
async def outside_slow() -> int:
    world.tokens.append(complete_later())
    world.begun.set()
    await world.may_end.wait()
    try:
        heartbeat()
    except asyncio.CancelledError:
        world.seen.append("not wanted")
    world.seen.append("ended")
    return -1


@workflow
async def outside_slow_body() -> int:
    return await outside_slow()


async def test_answer_before_the_hand_over_survives_a_crash_without_another_run_of_the_body(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    process = FaultyStorage(shared)
    async with make_app(process.storage, clock=clock, grace=timedelta(0)) as app:
        await app.start(outside_after_a_message(), id="one")
        await app.send(go_on, "now", to="one")
        await world.begun.wait()
        process.died.set()
    async with App(StorageProxy(shared).storage, clock=clock, worker=False) as client:
        await client.complete_activity(world.tokens[0], 6)
    clock.advance(60)
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        assert await (await app.get("one")).result() == 6
    assert len(world.tokens) == 1


@workflow
async def outside_after_a_message() -> int:
    await go_on.receive()
    return await outside_slow()


async def test_answer_to_an_activity_of_the_first_turn_survives_a_crash_too(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    process = FaultyStorage(shared)
    async with make_app(process.storage, clock=clock, grace=timedelta(0)) as app:
        await app.start(outside_slow_body(), id="one")
        await world.begun.wait()
        process.died.set()
    async with App(StorageProxy(shared).storage, clock=clock, worker=False) as client:
        await client.complete_activity(world.tokens[0], 6)
    clock.advance(60)
    async with make_app(StorageProxy(shared).storage, clock=clock) as app:
        assert await (await app.get("one")).result() == 6
    assert len(world.tokens) == 1


async def test_handed_over_activities_leave_room_for_others(make_app: MakeApp) -> None:
    async with make_app(max_activities=1) as app:
        handle = await app.start(outside_many(20), id="one")
        await token_of(app, 19)
        for number, token in enumerate(world.tokens):
            await app.complete_activity(token, number)
        assert await handle.result() == sum(range(20))


@workflow
async def outside_many(count: int) -> int:
    return sum(await asyncio.gather(*(outside_sign(str(number)) for number in range(count))))


# -- failing ---------------------------------------------------------------------------------------------


async def test_failure_from_outside_is_tried_again_by_the_policy_with_another_token(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_signing("lease"), id="one")
        first = await token_of(app)
        await app.fail_activity(first, ConnectionError("the pen is empty"))
        second = await token_of(app, 1)
        assert first != second
        await app.complete_activity(first, 98)
        await app.complete_activity(second, 2)
        assert await handle.result() == [2, "filed 2 pages"]
        assert (await kinds_of(app))[:4] == [
            "activity_handed_over",
            "activity_retried",
            "activity_handed_over",
            "activity_completed",
        ]
    assert world.seen == [("lease", 1, None), ("lease", 2, ["asked", "lease"])]


@pytest.mark.parametrize(
    "error", [NonRetryableError("no"), CardDeclinedError("declined"), TypeError("a mistake")], ids=repr
)
async def test_failure_from_outside_that_is_not_worth_another_attempt_ends_the_activity(
    make_app: MakeApp, error: Exception
) -> None:
    async with make_app() as app:
        handle = await app.start(outside_catching(), id="one")
        await app.fail_activity(await token_of(app), error)
        assert await handle.result() == [type(error).__name__, str(error)]
    assert len(world.tokens) == 1


@workflow
async def outside_catching() -> list[str]:
    picky = RetryPolicy(initial_interval=0.001, non_retryable=(CardDeclinedError,))
    try:
        return [str(await outside_sign.options(retry=picky)("lease"))]
    except (NonRetryableError, CardDeclinedError, TypeError) as exc:
        return [type(exc).__name__, str(exc)]


async def test_subclass_of_a_non_retryable_error_that_the_worker_can_not_import_ends_the_activity(
    make_app: MakeApp,
) -> None:
    class HiddenError(NonRetryableError):
        pass

    async with make_app() as app:
        handle = await app.start(outside_signing("lease"), id="one")
        await app.fail_activity(await token_of(app), HiddenError("nobody can import me"))
        with pytest.raises(WorkflowFailedError, match="nobody can import me"):
            await handle.result()
    assert len(world.tokens) == 1


async def test_retry_after_from_outside_says_when(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_signing("lease"), id="one")
        await app.fail_activity(await token_of(app), RetryAfter(timedelta(minutes=5)))
        while "activity_retried" not in await kinds_of(app):
            await asyncio.sleep(0.001)
        while (info := await handle.info()).wake_at is None:
            await asyncio.sleep(0.001)
        assert info.started_at is not None
        assert timedelta(minutes=4) < info.wake_at - info.started_at < timedelta(minutes=6)


async def test_failure_from_outside_stops_a_body_that_still_runs(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_slow_body(), id="one")
        await world.begun.wait()
        await app.fail_activity(world.tokens[0], ConnectionError("away"))
        await until(lambda: len(world.tokens) > 1)
        await app.complete_activity(world.tokens[1], 8)
        assert await handle.result() == 8
    assert world.seen == []


async def test_body_that_raises_after_complete_later_has_failed(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_failing_body(), id="one")
        second = await token_of(app)
        await app.complete_activity(world.tokens[0], 97)
        await app.complete_activity(world.tokens[1], 9)
        assert await handle.result() == 9
    assert second == world.tokens[0]


@activity(retry=_AT_ONCE)
async def outside_fails_first() -> int:
    world.tokens.append(complete_later())
    if activity_info().attempt == 1:
        raise ConnectionError("the letter could not be sent")
    return -1


@workflow
async def outside_failing_body() -> int:
    return await outside_fails_first()


# -- time-outs -------------------------------------------------------------------------------------------


@workflow
async def outside_with_limit(total: bool) -> list[object]:
    limits: dict[str, Any] = {"total_timeout": _LONG} if total else {"timeout": _LONG, "retry": RetryPolicy.none()}
    try:
        return [await outside_sign.options(**limits)("lease")]
    except ActivityTimedOutError as exc:
        return [exc.kind, exc.attempts]


@pytest.mark.parametrize("total", [False, True], ids=["timeout", "total_timeout"])
async def test_handed_over_activity_is_timed_out_durably(
    shared: Storage, clock: OffsetClock, make_app: MakeApp, hot_limit: int, total: bool
) -> None:
    ttl = timedelta(hours=9)
    async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=ttl) as app:
        handle = await app.start(outside_with_limit(total), id="one")
        token = await token_of(app)
        info = await handle.info()
        while info.wake_at is None or info.is_owned != bool(hot_limit) or info.started_at is None:
            info = await handle.info()
        assert abs((info.wake_at - info.started_at).total_seconds() - _LONG) < 5
    clock.advance(_LONG + 1)
    async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=ttl) as app:
        assert await (await app.get("one")).result() == ["total_timeout" if total else "timeout", 1]
        with pytest.raises(InstanceClosedError):
            await app.complete_activity(token, 1)


async def test_handed_over_activity_is_timed_out_while_its_run_is_in_memory(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_with_short_limit(), id="one")
        assert await handle.result() == ["timeout", 2]
        assert len(world.tokens) == 2
        assert (await kinds_of(app)).count("activity_handed_over") == 2


@workflow
async def outside_with_short_limit() -> list[object]:
    twice = RetryPolicy(initial_interval=0.001, max_attempts=2)
    try:
        return [await outside_sign.options(timeout=0.2, retry=twice)("lease")]
    except ActivityTimedOutError as exc:
        return [exc.kind, exc.attempts]


async def test_answer_that_came_before_the_deadline_counts_though_nobody_was_there(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    ttl = timedelta(hours=9)
    async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=ttl) as app:
        await app.start(outside_with_limit(total=False), id="one")
        token = await token_of(app)
    async with App(StorageProxy(shared).storage, clock=clock, worker=False) as client:
        await client.complete_activity(token, 7)
    clock.advance(_LONG + 1)
    async with make_app(StorageProxy(shared).storage, clock=clock, session_ttl=ttl) as app:
        assert await (await app.get("one")).result() == [7]


async def test_withdrawn_activity_takes_no_answer_and_the_inbox_row_goes(shared: Storage, make_app: MakeApp) -> None:
    async with make_app(StorageProxy(shared).storage) as app:
        handle = await app.start(outside_withdrawn(), id="one")
        token = await token_of(app)
        await app.send(go_on, "the time is over", to="one")
        while len(await kinds_of(app)) < 4:
            await asyncio.sleep(0.001)
        kinds = await kinds_of(app)
        await app.complete_activity(token, 7)
        while await rows_of(shared, "SELECT * FROM messages"):
            await asyncio.sleep(0.001)
        assert await kinds_of(app) == kinds
        await app.send(go_on, "end", to="one")
        assert await handle.result() == ["withdrawn", "later"]


@activity
async def outside_later() -> str:
    return "later"


@activity
async def outside_sign_plainly() -> int:
    world.tokens.append(complete_later())
    return -1


@workflow
async def outside_withdrawn() -> list[str]:
    signing = asyncio.ensure_future(outside_sign_plainly())
    await go_on.receive()
    signing.cancel()
    later = await outside_later()
    await asyncio.sleep(0.001)
    await go_on.receive()
    return ["withdrawn", later]


async def test_asyncio_timeout_around_a_handed_over_activity(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_under_a_timeout(), id="one")
        assert await handle.result() == "too late"
        with pytest.raises(InstanceClosedError, match="'one'"):
            await app.complete_activity(world.tokens[0], 1)


@workflow
async def outside_under_a_timeout() -> str:
    try:
        async with asyncio.timeout(0.2):
            return str(await outside_sign_plainly())
    except TimeoutError:
        return "too late"


# -- compensation, recur ---------------------------------------------------------------------------------


async def test_completion_from_outside_arms_the_compensation(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_undone(), id="one")
        await app.complete_activity(await token_of(app), 12)
        with pytest.raises(WorkflowFailedError, match="no deal"):
            await handle.result()
    assert world.seen == [("lease", 1, None), ("shred", 12, "lease")]


@workflow
async def outside_undone() -> None:
    await outside_sign("lease")
    raise ValueError("no deal")


async def test_token_of_an_earlier_run_is_of_no_use_in_the_next(shared: Storage, make_app: MakeApp) -> None:
    async with make_app(StorageProxy(shared).storage) as app:
        handle = await app.start(outside_recurring(0), id="one")
        await until(lambda: world.tokens)
        await app.send(go_on, "recur", to="one")
        await until(lambda: len(world.tokens) > 1)
        await app.complete_activity(world.tokens[0], 1)
        while await rows_of(shared, "SELECT * FROM messages"):
            await asyncio.sleep(0.001)
        await app.complete_activity(world.tokens[1], 2)
        assert await handle.result() == 2


@workflow
async def outside_recurring(number: int) -> int:
    signing = asyncio.ensure_future(outside_sign_plainly())
    if number == 0:
        await go_on.receive()
        signing.cancel()
        await asyncio.wait([signing])
        recur(outside_recurring(1))
    return await signing


# -- wrong answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "nonsense", "WzFd", "ü", "e30", "a" * 500], ids=lambda token: token[:8])
async def test_malformed_token_is_refused(make_app: MakeApp, token: str) -> None:
    async with make_app() as app:
        with pytest.raises(ValueError, match=r"is not a token of complete_later\(\)"):
            await app.complete_activity(token, 1)
        with pytest.raises(ValueError, match=r"is not a token of complete_later\(\)"):
            await app.fail_activity(token, ValueError("no"))


async def test_token_of_a_purged_or_replaced_instance_is_not_found(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_signing("lease"), id="one")
        token = await token_of(app)
        await handle.terminate()
        with pytest.raises(InstanceClosedError, match="'one'"):
            await app.complete_activity(token, 1)
        await app.start(outside_signing("other"), id="one", on_conflict="restart")
        with pytest.raises(InstanceNotFoundError, match=r"'one'.*purged, or started anew"):
            await app.complete_activity(token, 1)
        await (await app.get("one")).terminate()
        await app.purge("one")
        with pytest.raises(InstanceNotFoundError, match="'one'"):
            await app.fail_activity(token, ValueError("no"))


async def test_result_that_does_not_fit_is_refused_at_the_call(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(outside_signing("lease"), id="one")
        token = await token_of(app)
        with pytest.raises(CodecError, match="outside_sign"):
            await app.complete_activity(token, "twelve")
        await app.complete_activity(token, 12)
        assert await handle.result() == [12, "filed 12 pages"]


def is_not_imported(_: str) -> None:
    """Stand for `registry.find_activity` in a process that has not imported the activity."""


async def test_result_that_does_not_fit_when_it_is_delivered_blocks_its_instance_alone(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "romancy")
    async with make_app() as app:
        handle = await app.start(outside_signing("lease"), id="one")
        token = await token_of(app)
        with monkeypatch.context() as patched:
            patched.setattr(registry, "find_activity", is_not_imported)
            await app.complete_activity(token, "twelve")
        with pytest.raises(WorkflowBlockedError, match="result of activity 'outside_sign' does not fit"):
            await handle.result()
        assert await kinds_of(app) == ["activity_handed_over"]
        assert await app.run(outside_other()) == "later"


@workflow
async def outside_other() -> str:
    return await outside_later()


def test_complete_later_outside_of_an_activity_is_refused() -> None:
    with pytest.raises(OutsideWorkflowError, match=r"complete_later\(\) was called where no activity"):
        complete_later()


# -- crashes at every commit -----------------------------------------------------------------------------


@activity(retry=_AT_ONCE)
async def outside_swept(document: str, is_fast: bool) -> int:
    act(f"ask for {document} attempt {activity_info().attempt}")
    _swept_tokens[document, activity_info().attempt] = complete_later()
    if is_fast:
        await asyncio.sleep(0.005)
    return -1


@outside_swept.compensation
async def outside_unswept(pages: int, document: str, is_fast: bool) -> None:
    act(f"shred {pages} of {document}")


_swept_tokens: dict[tuple[str, int], str] = {}


@workflow
async def outside_sweep(is_fast: bool) -> None:
    pages = await asyncio.gather(outside_swept("lease", is_fast), outside_swept("will", is_fast))
    await go_on.receive()
    raise ValueError(f"{pages} pages are too many")


async def answer(app: App, key: tuple[str, int], say: Callable[[str], Awaitable[None]]) -> None:
    while key not in _swept_tokens:
        await asyncio.sleep(0.001)
    await insist(lambda: say(_swept_tokens[key]))


def playing(*, is_fast: bool) -> Callable[[App], Awaitable[Any]]:
    async def play(app: App) -> Any:
        try:
            await insist(lambda: app.get("one"))
        except InstanceNotFoundError:
            _swept_tokens.clear()  # those of another universe
        handle = await insist(lambda: app.start(outside_sweep(is_fast), id="one", on_conflict="attach"))
        try:
            await answer(app, ("lease", 1), lambda token: app.fail_activity(token, ConnectionError("away")))
            await answer(app, ("lease", 2), lambda token: app.complete_activity(token, 3))
            await answer(app, ("will", 1), lambda token: app.complete_activity(token, 4))
            await insist(lambda: app.send(go_on, "now", to="one", message_id="now"))
        except InstanceClosedError:
            pass  # a process before this one has said it all
        events = [event for event in await _finished(handle) if event[0] != "activity_handed_over"]
        return await outcome_of(handle), events

    return play


async def _finished(handle: Any) -> list[tuple[str, str | None, str]]:
    await outcome_of(handle)
    return await events_of(handle)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_fast", [False, True], ids=["handed over", "answered before"])
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_answers_count_once_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool, is_fast: bool
) -> None:
    await sweep(Scenario([outside_sweep], playing(is_fast=is_fast)), clock, hot_limit, fault=fault, is_mortal=is_mortal)
