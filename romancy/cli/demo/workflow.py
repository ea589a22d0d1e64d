"""The workflow of the demo, and its activities.

The activities do nothing but take their time, fail now and then, and write to the ledger. Between its effect
and its end each of them waits a little, as if for the answer of a service: a process that is killed there has
charged a card and does not know it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from functools import cache
from pathlib import Path

import msgspec

from romancy import Channel, activity, activity_info, workflow
from romancy.cli.demo.ledger import Ledger, Line, What
from romancy.cli.demo.orders import Order

DIRECTORY = "ROMANCY_DEMO_DIRECTORY"
SEED = "ROMANCY_DEMO_SEED"
LEDGER_NAME = "ledger.jsonl"

APPROVAL_TIMEOUT = 4.0
_HANDOVER = 0.3
_MOST_FAILURES = 2


class Approval(msgspec.Struct, frozen=True):
    """What the approver answers."""

    is_granted: bool


class Reservation(msgspec.Struct, frozen=True):
    """What the warehouse has set aside."""

    id: str


class Payment(msgspec.Struct, frozen=True):
    """What the customer has paid."""

    id: str


class Shipment(msgspec.Struct, frozen=True):
    """What is on its way, and what it was paid with."""

    id: str
    payment: str


class OrderRejectedError(Exception):
    """Nobody approved the order; what was done for it is taken back."""


class ServiceBusyError(Exception):
    """A service turns a request away; the next attempt may succeed."""


approvals = Channel("approvals", Approval)


@cache
def _ledger() -> Ledger:
    return Ledger(Path(os.environ[DIRECTORY]) / LEDGER_NAME)


async def _act(order: Order, value: str, *, trouble: float) -> str:
    """Write that it began, have the effect, and return once the answer is there.

    Which operations fail at first, and how long they take, depends on the seed and the operation alone: an
    attempt in the next process goes as it would have gone in the last.

    Args:
        order: What was ordered.
        value: What the effect brings forth or undoes.
        trouble: The probability, from 0 to 1, that the first attempt fails; the second's is half of it.
    """
    info = activity_info()
    chance = random.Random(f"{os.environ[SEED]}/{info.instance_id}/{info.activity_id}/{info.attempt}")
    takes = chance.uniform(0.08, 0.3)

    async def write(what: What) -> None:
        line = Line(
            what=what,
            instance=info.instance_id,
            activity=info.activity_id,
            attempt=info.attempt,
            key=info.idempotency_key,
            pid=os.getpid(),
            at=time.time(),
            item=order.item,
            value=value if what == "done" else "",
        )
        await asyncio.to_thread(_ledger().write, line)

    await write("began")
    await asyncio.sleep(takes * 0.6)
    if info.attempt <= _MOST_FAILURES and chance.random() < trouble / info.attempt:
        await write("failed")
        raise ServiceBusyError(f"attempt {info.attempt} of {info.activity_id} was turned away")
    await write("done")
    await asyncio.sleep(takes * 0.4)
    return value


def _new_id(letter: str) -> str:
    return f"{letter}-{uuid.uuid4().hex[:10]}"


@activity
async def reserve(order: Order) -> Reservation:
    """Set the goods aside."""
    return Reservation(await _act(order, _new_id("R"), trouble=0.1))


@reserve.compensation
async def release(reservation: Reservation, order: Order) -> None:
    """Put the goods back."""
    await _act(order, reservation.id, trouble=0.3)


@activity
async def charge(order: Order) -> Payment:
    """Take the money."""
    return Payment(await _act(order, _new_id("P"), trouble=0.2))


@charge.compensation
async def refund(payment: Payment, order: Order) -> None:
    """Give the money back."""
    await _act(order, payment.id, trouble=0.3)


@activity
async def ship(order: Order, payment: Payment) -> Shipment:
    """Hand the goods to the carrier."""
    return Shipment(await _act(order, _new_id("S"), trouble=0.1), payment.id)


@workflow
async def fulfil_order(order: Order) -> Shipment:
    """Reserve, charge, wait for approval, wait for the carrier, ship.

    Raises:
        OrderRejectedError: The approver refused, or did not answer in time; `refund` and `release` run.
    """
    await reserve(order)
    payment = await charge(order)
    try:
        async with asyncio.timeout(APPROVAL_TIMEOUT):
            approval = await approvals.receive()
    except TimeoutError:
        raise OrderRejectedError(f"nobody answered for order {order.id}") from None
    if not approval.is_granted:
        raise OrderRejectedError(f"order {order.id} was refused")
    await asyncio.sleep(_HANDOVER)
    return await ship(order, payment)
