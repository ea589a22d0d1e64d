"""The test environment as its users use it: time that skips, stubs, messages at a time, crashes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from romancy import (
    Channel,
    RetryPolicy,
    WorkflowFailedError,
    activity,
    activity_info,
    now,
    recur,
    sleep,
    start_child,
    workflow,
)
from romancy.testing import TestEnvironment

pytestmark = pytest.mark.anyio

answers: Channel[str] = Channel("environment.answers", str)
bodies: list[str] = []


@dataclass(frozen=True)
class Receipt:
    id: str
    amount: int


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    bodies.clear()


@pytest.fixture(params=[False, True], ids=["hot", "replayed"])
async def env(request: pytest.FixtureRequest, anyio_backend: str):  # type: ignore[no-untyped-def] # noqa: ANN201 - pytest's
    async with TestEnvironment(replay_always=request.param) as made:
        yield made


@activity(name="environment_note")
async def note(text: str) -> str:
    bodies.append(f"{text} {activity_info().attempt}")
    return text


@activity(name="environment_charge")
async def charge(order: str, amount: int = 7) -> Receipt:
    raise AssertionError("a test must not charge anybody")


@activity(name="environment_blocking")
def blocking() -> str:
    raise AssertionError("nor must it block")


@workflow(name="environment_month")
async def month(count: int) -> list[str]:
    done: list[str] = []
    for number in range(count):
        await sleep(timedelta(days=30) / count)
        done.append(await note(f"n{number}"))
    return done


async def test_month_with_fifty_activities_takes_no_time(env: TestEnvironment) -> None:
    begun = time.perf_counter()
    result = await env.app.run(month(50))
    passed = time.perf_counter() - begun
    assert result == [f"n{number}" for number in range(50)]
    assert env.now - env.started == timedelta(days=30)
    assert passed < 10


@workflow(name="environment_buys")
async def buys(order: str) -> Receipt:
    return await charge(order)


async def test_stub_returns_raises_or_calls(env: TestEnvironment) -> None:
    stub = env.stub(charge, returns=Receipt("r", 7))
    assert await env.app.run(buys("tea")) == Receipt("r", 7)
    stub.assert_called_once_with("tea")
    stub.assert_called_with("tea", amount=7)
    with pytest.raises(
        AssertionError, match=r"was not called with\n    \(order='coffee', amount=7\)\nit was called with"
    ):
        stub.assert_called_with("coffee")
    with pytest.raises(AssertionError, match="was called"):
        stub.assert_not_called()
    stub = env.stub(charge, raises=PermissionError("no money"))
    handle = await env.app.start(buys("tea"))
    with pytest.raises(WorkflowFailedError, match="no money"):
        await handle.result()
    assert len(stub.calls) > 5
    assert env.now - env.started < timedelta(minutes=15)
    with pytest.raises(AssertionError, match=r"was called \d+ times, not once"):
        stub.assert_called_once_with("tea")

    async def slowly(order: str, amount: int = 7) -> Receipt:
        await asyncio.sleep(0)
        return Receipt(order, amount)

    env.stub(charge, calls=slowly).assert_not_called()
    assert await env.app.run(buys("cake")) == Receipt("cake", 7)
    env.stub(charge, calls=lambda order, amount=7: Receipt(order.upper(), amount))
    assert await env.app.run(buys("cake")) == Receipt("CAKE", 7)


@workflow(name="environment_blocks")
async def blocks() -> str:
    return await blocking()


async def test_blocking_activity_is_stubbed_too_and_other_environments_are_not(env: TestEnvironment) -> None:
    env.stub(blocking, returns="stubbed")
    assert await env.app.run(blocks()) == "stubbed"
    async with TestEnvironment(retry=RetryPolicy(max_attempts=1)) as other:
        with pytest.raises(WorkflowFailedError, match="nor must it block"):
            await other.app.run(blocks())


@workflow(name="environment_asks")
async def asks(patience: float) -> str:
    asked = now()
    try:
        async with asyncio.timeout(patience):
            return f"{await answers.receive()} after {(now() - asked).total_seconds():.0f} s"
    except TimeoutError:
        return f"nobody after {(now() - asked).total_seconds():.0f} s"


async def test_time_does_not_move_while_the_test_does_something(env: TestEnvironment) -> None:
    handle = await env.app.start(asks(3600))
    await asyncio.sleep(0.05)
    assert env.now == env.started
    await handle.send(answers, "ann")
    assert await handle.result() == "ann after 0 s"


async def test_message_comes_at_its_time(env: TestEnvironment) -> None:
    early, late = [await env.app.start(asks(3600), id=id) for id in ("early", "late")]
    env.after(timedelta(minutes=50), lambda: early.send(answers, "ann"))
    env.after(3601, lambda: late.send(answers, "too late"))
    assert await late.result() == "nobody after 3600 s"
    assert await early.result() == "ann after 3000 s"


async def test_advance_goes_step_by_step(env: TestEnvironment) -> None:
    handle = await env.app.start(month(30))
    await env.advance(timedelta(days=10, hours=1))
    assert bodies == [f"n{number} 1" for number in range(10)]
    assert env.now == env.started + timedelta(days=10, hours=1)
    assert [event.at for event in await env.history(handle) if event.kind == "timer_fired"] == [
        env.started + timedelta(days=number) for number in range(1, 11)
    ]
    with pytest.raises(ValueError, match="time does not go back"):
        await env.advance(-1)
    assert len(await handle.result()) == 30


@activity(name="environment_fragile", retry=RetryPolicy(initial_interval=timedelta(seconds=10), jitter=0))
async def fragile() -> datetime:
    if activity_info().attempt < 4:
        raise ConnectionError("not yet")
    return datetime.now(UTC)


@workflow(name="environment_persists")
async def persists() -> float:
    begun = now()
    await fragile()
    return (now() - begun).total_seconds()


async def test_back_offs_take_no_time(env: TestEnvironment) -> None:
    assert await env.app.run(persists()) == 10 + 20 + 40


async def test_what_was_not_recorded_when_the_worker_died_is_done_again(env: TestEnvironment) -> None:
    env.crash_at("4:environment_note")
    handle = await env.app.start(month(5), id="one")
    assert await handle.result() == [f"n{number}" for number in range(5)]
    assert bodies == ["n0 1", "n1 1", "n1 1", "n2 1", "n3 1", "n4 1"] or bodies.count("n3 1") == 2
    assert len(bodies) == 6


async def test_worker_that_dies_is_followed_by_another(env: TestEnvironment) -> None:
    handle = await env.app.start(month(4))
    for _ in range(3):
        await env.advance(timedelta(days=7))
        await env.crash()
    assert await handle.result() == [f"n{number}" for number in range(4)]
    assert len(bodies) == 4


@workflow(name="environment_family")
async def family() -> list[str]:
    child = await start_child(asks(86_400), id="the child")
    await sleep(timedelta(days=2))
    return [await child]


async def test_children_and_delayed_starts_are_part_of_it(env: TestEnvironment) -> None:
    handle = await env.app.start(family(), delay=timedelta(days=3))
    assert await handle.result() == ["nobody after 86400 s"]
    assert env.now - env.started == timedelta(days=5)


@workflow(name="environment_years")
async def years(left: int) -> str:
    await sleep(timedelta(days=365))
    return recur(years(left - 1)) if left else "old"


async def test_runs_that_recur_take_no_time(env: TestEnvironment) -> None:
    assert await env.app.run(years(20)) == "old"


@workflow(name="environment_hopes")
async def hopes() -> str:
    return await answers.receive()


async def test_waiting_for_what_never_comes_says_what_is_missing(env: TestEnvironment) -> None:
    handle = await env.app.start(hopes(), id="one")
    with pytest.raises(
        TimeoutError, match=r"nothing will ever go on: 'one' \(running\) waits for receive 1:environment"
    ):
        await handle.result()
    await handle.send(answers, "at last")
    assert await handle.result() == "at last"
