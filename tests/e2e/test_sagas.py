"""Sagas end to end: in memory or not, across crashes, and on workers that never ran what they undo."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from romancy import (
    App,
    NonRetryableError,
    RetryPolicy,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    activity,
    activity_info,
    compensate_with,
    recur,
    saga,
    workflow,
)
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import Fault, OffsetClock, StorageProxy, insist
from .sweep import Scenario, act, events_of, outcome_of, sweep

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=0.0)
done: list[str] = []
gate = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global gate  # noqa: PLW0603 - activities are functions without a place for it
    gate = asyncio.Event()
    done.clear()


class OutOfPaperError(Exception):
    """The third thing can't be done."""


# -- three activities, of which the third fails, and the second can't be undone -----------------------------------


@activity
async def three_reserve(item: str) -> str:
    act(f"reserve {item}")
    return f"reservation of {item}"


@three_reserve.compensation(retry=_AT_ONCE)
async def three_release(reservation: str, item: str) -> None:
    attempt = activity_info().attempt
    act(f"release {reservation}, attempt {attempt}")
    if attempt == 1:
        raise ConnectionError("the depot is away")


@activity
async def three_charge(item: str) -> int:
    act(f"charge {item}")
    return 5


@three_charge.compensation(name="three_refund", timeout=30)
async def refund(amount: int, item: str) -> None:
    act(f"refund {amount} for {item}")
    raise NonRetryableError("the bank is closed")


@activity(retry=RetryPolicy.none())
async def three_print() -> None:
    act("print")
    raise OutOfPaperError("no paper")


@three_print.compensation
async def three_shred(label: None) -> None:
    act("shred")


@workflow
async def three_steps(item: str) -> None:
    await three_reserve(item)
    await three_charge(item)
    await three_print()


async def three_once(app: App) -> Any:
    handle = await insist(lambda: app.start(three_steps("tea"), id="three", on_conflict="attach"))
    return await outcome_of(handle), await events_of(handle)


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_compensations_end_as_undisturbed_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([three_steps], three_once), clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=8)


async def test_failure_names_the_original_error_and_that_of_the_compensation(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(three_steps("tea"), id="three")
        with pytest.raises(WorkflowFailedError) as caught:
            await handle.result()
        recorded = [(event.kind, event.activity_id) for event in await handle.history()]
    failure = caught.value.failure
    assert failure is not None
    assert (failure.type.endswith("OutOfPaperError"), failure.message) == (True, "no paper")
    (undoing,) = failure.undoing_failures
    assert undoing.activity_id == "undo.1:three_refund"
    assert undoing.details[0].message == "the bank is closed"
    assert "no paper" in str(caught.value)
    assert "the bank is closed" in str(caught.value)
    assert recorded == [
        ("activity_completed", "1:three_reserve"),
        ("activity_completed", "2:three_charge"),
        ("activity_failed", "3:three_print"),
        ("compensation_started", "undo.1:three_refund"),
        ("activity_failed", "undo.1:three_refund"),
        ("compensation_started", "undo.2:three_release"),
        ("activity_retried", "undo.2:three_release"),
        ("activity_completed", "undo.2:three_release"),
        ("run_failed", None),
    ]


# -- a worker that dies during a compensation ----------------------------------------------------------------------


@activity
async def dying_reserve(item: str) -> str:
    done.append(f"reserve {item}")
    return item


@dying_reserve.compensation
async def dying_release(reservation: str, item: str) -> None:
    done.append(f"release {item} begins")
    if item == "first":
        await gate.wait()
    done.append(f"release {item} ends")


@workflow
async def dying_steps() -> None:
    for item in ("first", "second", "third"):
        await dying_reserve(item)
    raise OutOfPaperError("no paper")


async def test_worker_that_never_ran_the_activities_goes_on_with_the_compensations(
    shared: Storage, clock: OffsetClock, hot_limit: int
) -> None:
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit, grace=timedelta(0)) as app:
        handle = await app.start(dying_steps(), id="dying")
        while "release first begins" not in done:
            await asyncio.sleep(0.001)
    before = done.copy()
    assert before[3:] == [
        "release third begins",
        "release third ends",
        "release second begins",
        "release second ends",
        "release first begins",
    ]
    clock.advance(60)
    gate.set()
    async with App(StorageProxy(shared).storage, clock=clock, hot_limit=hot_limit) as app:
        handle = await app.get("dying")
        with pytest.raises(WorkflowFailedError, match="no paper"):
            await handle.result()
    assert done[len(before) :] == ["release first begins", "release first ends"]


# -- blocks ----------------------------------------------------------------------------------------------------------


@activity
async def block_book(what: str) -> str:
    act(f"book {what}")
    return f"{what}!"


@block_book.compensation
async def block_cancel(booking: str, what: str) -> None:
    act(f"cancel {booking}")


@activity(retry=RetryPolicy.none())
async def block_call(what: str) -> None:
    act(f"call {what}")
    raise ConnectionError(f"{what} hangs up")


@block_call.compensation(armed="attempted")
async def block_call_off(answer: None, what: str) -> None:
    act(f"call off {what}: {answer}")


@activity
async def block_note(text: str) -> None:
    act(f"note {text}")


@workflow
async def block_trip(is_stubborn: bool) -> str:
    await block_book("insurance")
    for hotel in ("Ritz", "Savoy"):
        try:
            async with saga():
                await block_book("flight")
                compensate_with(block_note(f"no {hotel}"))
                await block_call(hotel)
        except ConnectionError as exc:
            await block_note(str(exc))
    if is_stubborn:
        raise OutOfPaperError("no trip")
    return "stays at home"


async def trip_once(app: App, *, is_stubborn: bool) -> Any:
    handle = await insist(lambda: app.start(block_trip(is_stubborn), id="trip", on_conflict="attach"))
    return await outcome_of(handle), await events_of(handle)


@pytest.mark.parametrize("is_stubborn", [False, True], ids=["handled", "failed"])
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_blocks_end_as_undisturbed_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool, is_stubborn: bool
) -> None:
    scenario = Scenario([block_trip], partial(trip_once, is_stubborn=is_stubborn))
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=12)


async def test_block_undoes_its_own_and_the_run_the_rest(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(block_trip(True))
        with pytest.raises(WorkflowFailedError, match="no trip") as caught:
            await handle.result()
        ids = [e.activity_id for e in await handle.history() if e.activity_id and e.kind != "compensation_started"]
    assert ids == [
        "1:block_book",
        "2:block_book",
        "4:block_call",
        "t1.1:block_call_off",
        "3:block_note",
        "t1.2:block_cancel",
        "5:block_note",
        "6:block_book",
        "8:block_call",
        "t2.1:block_call_off",
        "7:block_note",
        "t2.2:block_cancel",
        "9:block_note",
        "undo.1:block_cancel",
    ]
    assert caught.value.failure is not None
    assert [each.activity_id for each in caught.value.failure.undoing_failures] == ["4:block_call", "8:block_call"]


# -- tasks that go on while their block is undone -----------------------------------------------------------------


@workflow
async def block_hurry() -> str:
    async def book_both() -> None:
        await block_book("train")
        await block_book("room")

    try:
        async with saga():
            await asyncio.gather(book_both(), block_call("Ritz"))
    except ConnectionError:
        await block_note("stays")
    return "at home"


async def hurry_once(app: App) -> Any:
    handle = await insist(lambda: app.start(block_hurry(), id="hurry", on_conflict="attach"))
    outcome = await outcome_of(handle)
    names = Counter(str(event[1]).partition(":")[2] for event in await events_of(handle) if event[1])
    return outcome, sorted(names.items())  # which of the two comes first is the world's to decide


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_block_whose_tasks_go_on_is_undone_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([block_hurry], hurry_once), clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=8)


async def test_block_leaves_nothing_of_its_tasks_behind(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(block_hurry())
        assert await handle.result() == "at home"
        ended = (event for event in await handle.history() if event.kind != "compensation_started")
        names = Counter((event.activity_id or "").partition(":")[2] for event in ended)
    assert names["block_cancel"] == names["block_book"] == 2
    assert names["block_call_off"] == 1


# -- a child as a compensation ---------------------------------------------------------------------------------------


@workflow
async def child_mourner(name: str) -> str:
    done.append(f"mourns {name}")
    return name


@workflow
async def child_parent() -> None:
    compensate_with(child_mourner("tea"))
    await dying_reserve("other")
    raise OutOfPaperError("no paper")


async def test_child_can_be_a_compensation(make_app: MakeApp) -> None:
    gate.set()
    async with make_app() as app:
        with pytest.raises(WorkflowFailedError, match="no paper"):
            await app.run(child_parent())
    assert done == ["reserve other", "release other begins", "release other ends", "mourns tea"]


# -- code that is wrong, and code that recurs ------------------------------------------------------------------------


@workflow
async def blocked_steps() -> None:
    async with saga():
        await dying_reserve("second")
        raise NameError("typo")


async def test_blocked_run_undoes_nothing(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(blocked_steps())
        with pytest.raises(WorkflowBlockedError, match="typo"):
            await handle.result()
    assert done == ["reserve second"]


@workflow
async def recurring_steps(number: int) -> str:
    if number == 1:
        await dying_reserve("second")
        recur(recurring_steps(number + 1), compensate=True)
    return "done"


async def test_recur_can_undo_before_the_next_run(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(recurring_steps(1)) == "done"
    assert done == ["reserve second", "release second begins", "release second ends"]


@workflow
async def recurring_slowly() -> str:
    await dying_reserve("first")
    recur(recurring_slowly(), compensate=True)


async def test_cancel_while_a_run_is_undone_before_recur_ends_the_instance(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(recurring_slowly())
        while "release first begins" not in done:
            await asyncio.sleep(0.001)
        await handle.cancel("enough")
        await asyncio.sleep(0.02)
        gate.set()
        with pytest.raises(WorkflowCancelledError, match="enough"):
            await handle.result()
    assert done == ["reserve first", "release first begins", "release first ends"]
