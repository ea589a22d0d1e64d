# No postponed annotations here: that is what this module is for.
"""As `test_payloads`, where annotations are objects and some are local to a function."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Generic, NewType, TypeVar

import pytest

from romancy import Channel, activity, workflow

from .conftest import MakeApp
from .test_payloads import ORDER, Order, check_types

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Cents = NewType("Cents", int)
go_on = Channel("eager_go_on", str)


@dataclass
class Box(Generic[T]):
    content: T
    price: Cents


@activity
async def eager_box(order: Order, price: Cents) -> Box[Order]:
    return Box(order, price)


@workflow
async def eager_boxes(orders: list[Order], maybe: Decimal | None = None) -> list[Box[Order] | None]:
    boxes: list[Box[Order] | None] = [await eager_box(order, Cents(5)) for order in orders]
    await go_on.receive()
    assert maybe == Decimal("1.0")
    return [*boxes, None]


async def test_values_come_back_from_replay_as_what_they_were_without_postponed_annotations(
    database: str, make_app: MakeApp
) -> None:
    async with make_app(database) as app:
        handle = await app.start(eager_boxes([ORDER, ORDER], Decimal("1.0")), id="one")
        while len(await handle.history()) < 2:
            await asyncio.sleep(0.001)
    async with make_app(database) as app:
        await app.send(go_on, "now", to="one")
        found: list[Box[Order] | None] = await (await app.get("one")).result()
    assert found == [Box(ORDER, Cents(5)), Box(ORDER, Cents(5)), None]
    for box in found[:2]:
        assert box is not None
        assert type(box) is Box
        check_types(box.content)


async def test_definitions_inside_a_function_find_its_types(make_app: MakeApp) -> None:
    @dataclass
    class Local:
        at: datetime

    @activity(name="eager_local_activity")
    async def act(local: Local) -> list[Local]:
        assert type(local) is Local
        return [local]

    @workflow(name="eager_local_workflow")
    async def work(local: Local) -> Local:
        return (await act(local))[0]

    value = Local(datetime(2026, 1, 1, tzinfo=UTC))
    async with make_app(workflows=[work]) as app:
        assert await app.run(work(value)) == value
