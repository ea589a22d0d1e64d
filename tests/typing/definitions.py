"""What mypy and pyright must accept and refuse; nothing here is run.

A line that must be refused carries both checkers' ignores: one that is not needed is an error itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_type

import romancy
from romancy import (
    App,
    Call,
    Channel,
    Handle,
    RetryPolicy,
    activity,
    recur,
    side_effect,
    workflow,
)
from romancy.core.definitions import Activity


@dataclass
class Order:
    id: int


@dataclass
class Payment:
    amount: int


@activity
async def typed_charge(order: Order, amount: int = 5) -> Payment:
    return Payment(amount)


@typed_charge.compensation
async def typed_refund(payment: Payment, order: Order, amount: int = 5) -> None: ...


@activity(timeout=timedelta(seconds=3), retry=RetryPolicy.none())
async def typed_with_settings(order: Order) -> str:
    return ""


@activity
def typed_in_a_thread(order: Order) -> bytes:
    return b""


@activity(name="typed.in.a.thread", total_timeout=60)
def typed_in_a_thread_with_settings(order: Order, *, copies: int) -> list[bytes]:
    return [b""] * copies


@typed_in_a_thread.compensation
def typed_forget(label: bytes, order: Order) -> int:
    return len(label)


@activity
async def typed_ship(order: Order) -> str:
    return ""


@workflow
async def typed_fulfil(order: Order, *, is_gift: bool = False) -> list[Payment]:
    return [await typed_charge(order)]


@workflow(version="2")
async def typed_versioned(count: int) -> str:
    return str(count)


approvals = Channel("typed_approvals", Payment)


def definitions_keep_their_signatures() -> None:
    assert_type(typed_charge(Order(1)), Call[Payment])
    assert_type(typed_charge(Order(1), amount=3), Call[Payment])
    assert_type(typed_with_settings(Order(1)), Call[str])
    assert_type(typed_in_a_thread(Order(1)), Call[bytes])
    assert_type(typed_in_a_thread_with_settings(Order(1), copies=2), Call[list[bytes]])
    assert_type(typed_fulfil(Order(1), is_gift=True), Call[list[Payment]])
    assert_type(typed_versioned(1), Call[str])
    assert_type(typed_refund(Payment(1), Order(1), amount=5), Call[None])
    assert_type(typed_forget(b"", Order(1)), Call[int])


def wrong_arguments_are_refused() -> None:
    typed_charge("order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    typed_charge()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    typed_charge(Order(1), amount="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    typed_charge(Order(1), sum=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    typed_charge(Order(1), 5, 6)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    typed_with_settings(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    typed_in_a_thread(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    typed_in_a_thread_with_settings(Order(1), 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    typed_fulfil(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    typed_fulfil(Order(1), is_gift="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    typed_versioned(Order(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    typed_refund(Order(1), Order(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def wrong_settings_are_refused() -> None:
    activity(timeout="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    activity(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    typed_charge.options(timeout="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    typed_charge.options(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    workflow(version=2)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def options_keep_the_signature() -> None:
    patient = typed_charge.options(timeout=3, total_timeout=timedelta(minutes=1), retry=RetryPolicy())
    assert_type(patient(Order(1)), Call[Payment])
    patient("order")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    same: Activity[[Order], str] = typed_ship.options(timeout=3)
    assert_type(same(Order(1)), Call[str])


def compensations_take_the_result_and_the_arguments() -> None:
    async def takes_no_result(order: Order) -> None: ...
    async def takes_another_result(shipped: int, order: Order) -> None: ...
    def takes_too_much(shipped: str, order: Order, more: int) -> None: ...

    typed_ship.compensation(takes_no_result)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    typed_ship.compensation(takes_another_result)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    typed_ship.compensation(takes_too_much)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def compensations_with_settings_take_the_result_and_the_arguments() -> None:
    async def takes_result(shipped: str, order: Order) -> None: ...
    async def takes_maybe(shipped: str | None, order: Order) -> None: ...

    undo: Activity[[str, Order], None] = typed_ship.compensation(timeout=3, name="undo")(takes_result)
    assert_type(undo("", Order(1)), Call[None])
    typed_ship.compensation(armed="attempted")(takes_maybe)
    typed_ship.compensation(armed="attempted")(takes_result)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    typed_ship.compensation(armed="later")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


async def sagas_are_blocks(order: Order) -> None:
    async with romancy.saga() as block:
        romancy.compensate_with(typed_ship(order))
    assert_type(block.failures, list[romancy.CompensationError])
    romancy.compensate_with(typed_ship)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def workflows_are_coroutine_functions() -> None:
    def no_coroutine(order: Order) -> str:
        return str(order)

    workflow(no_coroutine)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def results_are_typed_in_workflows() -> None:
    assert_type(await typed_charge(Order(1)), Payment)
    assert_type(await typed_in_a_thread(Order(1)), bytes)
    assert_type(
        await asyncio.gather(typed_charge(Order(1)), typed_with_settings(Order(1)), typed_in_a_thread(Order(1))),
        tuple[Payment, str, bytes],
    )
    assert_type(await asyncio.gather(*(typed_charge(Order(n)) for n in range(3))), list[Payment])
    assert_type(await asyncio.wait_for(typed_charge(Order(1)), 5), Payment)
    assert_type(await asyncio.shield(typed_charge(Order(1))), Payment)
    assert_type(await asyncio.create_task(typed_charge(Order(1))), Payment)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(typed_charge(Order(1)))
    assert_type(task.result(), Payment)
    for each in romancy.as_completed([typed_charge(Order(1)), typed_charge(Order(2))]):
        assert_type(await each, Payment)
    wrong: str = await typed_charge(Order(1))  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    assert wrong


async def results_are_typed_outside(app: App) -> None:
    handle = await app.start(typed_fulfil(Order(1)), id="one")
    assert_type(handle, Handle[list[Payment]])
    assert_type(await handle.result(timeout=5), list[Payment])
    assert_type(await app.run(typed_versioned(1)), str)
    assert_type(await typed_fulfil(Order(1)), list[Payment])
    assert_type(await typed_fulfil.fn(Order(1)), list[Payment])
    assert_type(await app.start(typed_versioned(1), on_conflict="restart"), Handle[str])
    await app.start(typed_versioned(1), on_conflict="replace")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await app.start(typed_fulfil)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await app.run(Order(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def messages_are_typed(app: App, handle: Handle[str]) -> None:
    assert_type(approvals, Channel[Payment])
    assert_type(await approvals.receive(timeout=3), Payment)
    await approvals.send(Payment(1), to="one")
    await app.send(approvals, Payment(1), to="one")
    await handle.send(approvals, Payment(1))
    await approvals.send(Order(1), to="one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await approvals.send(Payment(1))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await app.send(approvals, Order(1), to="one")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    await handle.send(approvals, "yes")  # type: ignore[misc]  # pyright: ignore[reportArgumentType]


def recur_never_returns(left: int) -> str:
    if left:
        recur(typed_versioned(left - 1))
    return "done"


def recur_takes_a_call() -> None:
    recur(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def side_effects_are_typed() -> None:
    assert_type(side_effect(lambda: 5), int)
    assert_type(romancy.random(), float)
