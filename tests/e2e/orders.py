"""A workflow that does a bit of everything."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from romancy import App, Channel, RetryPolicy, activity, activity_info, workflow

from .faults import insist
from .sweep import act, events_of, outcome_of

approvals = Channel("approvals", str)
parcels = Channel("parcels", str)

_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=0.0)


class OutOfStockError(Exception):
    """The order can't be fulfilled."""


@activity
async def sweep_reserve(item: str) -> str:
    act(f"reserve {item}")
    await asyncio.sleep(0)
    return f"reservation of {item}"


@sweep_reserve.compensation
async def sweep_release(reservation: str, item: str) -> None:
    act(f"release {item}: {reservation}")


@activity(retry=_AT_ONCE)
async def sweep_charge(item: str) -> int:
    attempt = activity_info().attempt
    act(f"charge {item} attempt {attempt}")
    if attempt == 1:
        raise ConnectionError("the bank is away")
    return 5


@sweep_charge.compensation
def sweep_refund(amount: int, item: str) -> int:
    act(f"refund {amount} for {item}")
    return -amount


@activity
def sweep_label(item: str) -> str:
    act(f"label {item}")
    return f"label of {item}"


@activity
async def sweep_ship(item: str, approval: str) -> str:
    act(f"ship {item}, {approval}")
    return f"{item} is on its way"


@workflow
async def sweep_order(item: str, is_out_of_stock: bool) -> list[object]:
    reservation = await sweep_reserve(item)
    payment, label = await asyncio.gather(sweep_charge(item), sweep_label(item))
    approval = await approvals.receive()
    await asyncio.sleep(0.001)
    await parcels.send(f"{item} {label}", to="depot")
    if is_out_of_stock:
        raise OutOfStockError(item)
    return [reservation, payment, label, await sweep_ship(item, approval)]


@workflow
async def sweep_depot() -> str:
    return await parcels.receive()


async def order_once(app: App, *, is_out_of_stock: bool) -> tuple[str, dict[str, Any]]:
    """Order something, whatever happens to the database; return the outcome and the histories."""
    depot = await insist(lambda: app.start(sweep_depot(), id="depot", on_conflict="attach"))
    order = await insist(lambda: app.start(sweep_order("tea", is_out_of_stock), id="order", on_conflict="attach"))
    await insist(lambda: app.send(approvals, "granted", to="order", message_id="approval"))
    outcome = " ".join([await outcome_of(depot), await outcome_of(order)])
    return outcome, {handle.id: await events_of(handle) for handle in (depot, order)}
