"""What was done is undone when a run fails, also what was still under way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from romancy import Channel, RetryPolicy, WorkflowCancelledError, WorkflowFailedError, activity, workflow

from .conftest import MakeApp

pytestmark = pytest.mark.anyio

letters = Channel("compensation_letters", str)
done: list[str] = []
charging = asyncio.Event()
may_charge = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global charging, may_charge
    charging, may_charge = asyncio.Event(), asyncio.Event()
    done.clear()


class PrinterJammedError(Exception):
    """The label can't be printed."""


@activity
async def saga_reserve(item: str) -> str:
    done.append(f"reserve {item}")
    return f"reservation of {item}"


@saga_reserve.compensation
async def saga_release(reservation: str, item: str) -> None:
    done.append(f"release {reservation}")


@activity
async def saga_charge(amount: int) -> int:
    done.append(f"charge {amount}")
    charging.set()
    await may_charge.wait()
    done.append(f"charged {amount}")
    return amount


@saga_charge.compensation
async def saga_refund(charged: int, amount: int) -> None:
    done.append(f"refund {charged}")


@activity
async def saga_print() -> str:
    await charging.wait()
    done.append("jam")
    asyncio.get_running_loop().call_later(0.02, may_charge.set)
    raise PrinterJammedError("no paper")


@activity
async def saga_endless() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        done.append("endless was told to stop")


@activity(retry=RetryPolicy.none())
async def saga_broken_undo_target() -> str:
    done.append("built")
    return "built"


@saga_broken_undo_target.compensation
async def saga_broken_undo(built: str) -> None:
    done.append("undo fails")
    raise NonRetryableUndoError("can't be undone")


class NonRetryableUndoError(Exception):
    """An undo fails for good."""


print_once = saga_print.options(retry=RetryPolicy.none())


@workflow
async def saga_gather() -> None:
    await saga_reserve("tea")
    await asyncio.gather(saga_charge(5), print_once())


@workflow
async def saga_timeout() -> None:
    await saga_reserve("tea")
    try:
        async with asyncio.timeout(0.02):
            await saga_charge(5)
    finally:
        asyncio.get_running_loop().call_later(0, done.append, "timed out")
        await saga_note()


@activity
async def saga_note() -> None:
    asyncio.get_running_loop().call_later(0.02, may_charge.set)


@workflow
async def saga_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(saga_charge(5))
        group.create_task(print_once())
        group.create_task(saga_endless())


@workflow
async def saga_waits() -> None:
    await saga_reserve("tea")
    await saga_reserve("milk")
    await letters.receive()


@workflow
async def saga_cancelled_in_charge() -> None:
    await saga_charge(5)


@workflow
async def saga_with_a_broken_undo() -> None:
    await saga_reserve("tea")
    await saga_broken_undo_target.options()()
    await saga_reserve("milk")
    raise PrinterJammedError("no paper")


async def test_activity_in_flight_when_another_fails_is_awaited_recorded_and_undone(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(saga_gather())
        with pytest.raises(WorkflowFailedError, match="no paper") as caught:
            await handle.result()
        kinds = [(event.kind, event.activity_id) for event in await handle.history()]
    assert caught.value.failure is not None
    assert caught.value.failure.type.endswith("PrinterJammedError")
    assert done == [
        "reserve tea",
        "charge 5",
        "jam",
        "charged 5",
        "refund 5",
        "release reservation of tea",
    ]
    assert ("activity_completed", "2:saga_charge") in kinds
    assert kinds[-1][0] == "run_failed"


async def test_activity_that_a_timeout_abandons_is_awaited_recorded_and_undone(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(saga_timeout())
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        ids = [event.activity_id for event in await handle.history() if event.kind == "activity_completed"]
    assert [each for each in done if each != "timed out"] == [
        "reserve tea",
        "charge 5",
        "charged 5",
        "refund 5",
        "release reservation of tea",
    ]
    assert "2:saga_charge" in ids


async def test_activity_in_flight_without_a_compensation_is_told_to_stop(make_app: MakeApp) -> None:
    async with make_app() as app:
        with pytest.raises(WorkflowFailedError):
            await app.run(saga_task_group())
    assert sorted(done) == sorted(["charge 5", "jam", "endless was told to stop", "charged 5", "refund 5"])
    assert done[-1] == "refund 5"


async def test_cancelled_run_compensates_in_reverse_order(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(saga_waits(), id="one")
        while len(done) < 2:
            await asyncio.sleep(0.001)
        await handle.cancel("changed my mind")
        with pytest.raises(WorkflowCancelledError, match="changed my mind"):
            await handle.result()
        assert await handle.status() == "cancelled"
    assert done == ["reserve tea", "reserve milk", "release reservation of milk", "release reservation of tea"]


async def test_run_cancelled_while_an_activity_is_in_flight_waits_for_it_and_undoes_it(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(saga_cancelled_in_charge(), id="one")
        await charging.wait()
        await handle.cancel()
        await asyncio.sleep(0.02)
        assert done == ["charge 5"]
        may_charge.set()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert done == ["charge 5", "charged 5", "refund 5"]


async def test_compensation_that_fails_is_told_and_the_others_go_on(make_app: MakeApp) -> None:
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=1), max_attempts=2)
    async with make_app(retry=policy) as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await app.run(saga_with_a_broken_undo())
    assert done == [
        "reserve tea",
        "built",
        "reserve milk",
        "release reservation of milk",
        "undo fails",
        "undo fails",
        "release reservation of tea",
    ]
    failure = caught.value.failure
    assert failure is not None
    assert failure.message == "no paper"
    (detail,) = failure.undoing_failures
    assert detail.type == "romancy.errors:CompensationError"
    assert detail.message.endswith(
        "saga_broken_undo' of '2:saga_broken_undo_target' failed for good: NonRetryableUndoError: can't be undone"
    )
    assert "can't be undone" in str(caught.value)


async def test_workflow_that_handles_a_failure_is_not_compensated(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(saga_handles()) == "went on"
    assert done == ["reserve tea", "jam"]


@workflow
async def saga_handles() -> str:
    await saga_reserve("tea")
    try:
        await saga_jam()
    except PrinterJammedError:
        return "went on"
    return "printed"


@activity(retry=RetryPolicy.none())
async def saga_jam() -> None:
    done.append("jam")
    raise PrinterJammedError("no paper")
