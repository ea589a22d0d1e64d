"""The orders of the demo."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec

Approval = Literal["granted", "refused", "unanswered"]

_FILE = "orders.csv"
_PLACES = (
    Path(__file__).parent / _FILE,  # an installed wheel
    Path(__file__).parents[3] / "examples" / _FILE,  # a checkout
)


class Order(msgspec.Struct, frozen=True):
    """One line of the file; ``approval`` is what the approver will say, and no business of the workflow."""

    id: int
    customer: str
    item: str
    quantity: int
    amount: Decimal
    approval: Approval

    @property
    def instance_id(self) -> str:
        """The id of the instance that fulfils the order."""
        return f"order-{self.id}"

    @property
    def effects(self) -> int:
        """How many activities it takes: reserve and charge, then either ship or refund and release."""
        return 3 if self.approval == "granted" else 4


def read_orders(limit: int) -> list[Order]:
    """Read the first orders, at most ``limit``.

    Raises:
        FileNotFoundError: The file was not installed.
        msgspec.ValidationError: A line is not an order.
    """
    path = next((place for place in _PLACES if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{_FILE} is neither in {_PLACES[0].parent} nor in {_PLACES[1].parent}")
    with path.open(encoding="utf-8", newline="") as file:
        return msgspec.convert(list(csv.DictReader(file))[:limit], list[Order], strict=False)
