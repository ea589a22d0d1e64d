"""Values come back from replay as what they were; what does not fit is refused at the call.

This module has postponed annotations; `test_payloads_eager` has none.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from romancy import Channel, CodecError, activity, side_effect, workflow

from .conftest import MakeApp

pytestmark = pytest.mark.anyio


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Point(msgspec.Struct, frozen=True):
    x: int
    y: Decimal


class Address(pydantic.BaseModel):
    street: str
    since: date
    colour: Colour


class Options(TypedDict):
    is_gift: bool
    note: str | None


@attrs.frozen
class Weight:
    grams: int


@dataclass
class Line:
    item: str
    price: Decimal
    points: list[Point]
    data: bytes = b""


@dataclass
class Order:
    id: UUID
    at: datetime
    due: timedelta
    colour: Colour
    lines: list[Line]
    address: Address
    options: Options
    weight: Weight
    by_name: dict[str, Point] = field(default_factory=dict[str, Point])
    pair: tuple[int, str] = (1, "one")
    tags: frozenset[str] = frozenset()


ORDER = Order(
    id=UUID("12345678-1234-5678-1234-567812345678"),
    at=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    due=timedelta(days=3, microseconds=7),
    colour=Colour.GREEN,
    lines=[Line("tea", Decimal("1.10"), [Point(1, Decimal("2.50"))], b"\x00\xff"), Line("milk", Decimal("1E-7"), [])],
    address=Address(street="High Street", since=date(2020, 1, 1), colour=Colour.RED),
    options={"is_gift": True, "note": None},
    weight=Weight(grams=250),
    by_name={"home": Point(3, Decimal("4.0"))},
    pair=(2, "two"),
    tags=frozenset({"a", "b"}),
)

wrong_points: Any = ["no point"]
orders = Channel("payload_orders", Order)
go_on = Channel("payload_go_on", bool)


@activity
async def payload_echo(order: Order) -> Order:
    return order


@activity
async def payload_list(orders: list[Order], *, by: dict[UUID, Address]) -> list[tuple[Order, Address]]:
    return [(order, by[order.id]) for order in orders]


def _choose() -> Order:
    return ORDER


@workflow
async def payload_all(order: Order, others: list[Order]) -> list[Order]:
    echoed = await payload_echo(order)
    ((paired, address),) = await payload_list([order], by={order.id: order.address})
    chosen = side_effect(_choose)
    received = await orders.receive()
    await go_on.receive()
    assert address == order.address
    assert type(address) is Address
    return [order, *others, echoed, paired, chosen, received]


@workflow
async def payload_typed(order: Order, count: int = 1) -> int:
    return count + len(order.lines)


async def test_values_come_back_from_replay_as_what_they_were(database: str, make_app: MakeApp) -> None:
    async with make_app(database) as app:
        handle = await app.start(payload_all(ORDER, [ORDER]), id="one")
        await app.send(orders, ORDER, to="one")
        while len(await handle.history()) < 4:
            await asyncio.sleep(0.001)
    async with make_app(database) as app:
        await app.send(go_on, True, to="one")
        found = await (await app.get("one")).result()
    assert found == [ORDER] * 6
    for order in found:
        check_types(order)


def check_types(order: Order) -> None:
    """Equal values may still be of another type: Decimal("1") == 1."""
    assert type(order) is Order
    assert type(order.id) is UUID
    assert type(order.at) is datetime
    assert order.at.tzinfo is not None
    assert type(order.due) is timedelta
    assert order.colour is Colour.GREEN
    assert [type(line) for line in order.lines] == [Line, Line]
    assert [str(line.price) for line in order.lines] == ["1.10", "1E-7"]
    assert type(order.lines[0].points[0]) is Point
    assert type(order.lines[0].points[0].y) is Decimal
    assert type(order.lines[0].data) is bytes
    assert type(order.address) is Address
    assert order.address.colour is Colour.RED
    assert type(order.address.since) is date
    assert type(order.weight) is Weight
    assert type(order.by_name["home"]) is Point
    assert type(order.pair) is tuple
    assert type(order.tags) is frozenset


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"lines": [Line("tea", Decimal(1), wrong_points)]}, "lines[0].points[0]"),
        ({"colour": "blue"}, "colour"),
        ({"id": 5}, "id"),
        ({"at": "yesterday"}, "at"),
        ({"by_name": {"home": 3}}, "by_name"),
    ],
    ids=["nested", "enum", "uuid", "datetime", "dict"],
)
async def test_wrong_input_is_refused_at_the_call_and_nothing_is_stored(
    make_app: MakeApp, change: dict[str, Any], path: str
) -> None:
    async with make_app() as app:
        with pytest.raises(CodecError, match="payload_typed") as caught:
            await app.start(payload_typed(replace(ORDER, **change)), id="one")
        assert f"order.{path}" in str(caught.value).replace("$.", "").replace("order: ", "order.")
        wrong: Any = "three"
        with pytest.raises(CodecError, match="count"):
            await app.start(payload_typed(ORDER, wrong), id="one")
        missing: Any = payload_typed
        with pytest.raises(TypeError, match="order"):
            await app.start(missing(), id="one")
        with pytest.raises(TypeError, match="colour"):
            await app.start(missing(ORDER, colour=1), id="one")
        assert await app.list() == []


async def test_wrong_message_is_refused_and_nothing_is_sent(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(payload_all(ORDER, []), id="one")
        wrong: Any = {"id": 1}
        with pytest.raises(CodecError, match="payload_orders"):
            await app.send(orders, wrong, to="one")
        await app.send(orders, ORDER, to="one")
        await app.send(go_on, True, to="one")
        assert len(await handle.result()) == 5


async def test_big_values_pass(make_app: MakeApp) -> None:
    big = replace(ORDER, lines=ORDER.lines * 5_000)
    async with make_app() as app:
        assert await app.run(payload_typed(big)) == 10_001
