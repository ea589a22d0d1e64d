"""A workflow that does a bit of everything, and a ledger of what it did to the world."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

from romancy import App, Channel, RetryPolicy, WorkflowFailedError, activity, activity_info, workflow
from romancy.client.handle import Handle

from .faults import insist

approvals = Channel("approvals", str)
parcels = Channel("parcels", str)

_VOLATILE = ("at", "retry_at", "message_id", "traceback")
_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1), jitter=0.0)


@dataclass
class World:
    """What activities have done, and which of them are recorded."""

    effects: Counter[str] = field(default_factory=Counter[str])
    recorded: set[tuple[int, int, str]] = field(default_factory=set[tuple[int, int, str]])
    repeated: list[str] = field(default_factory=list[str])

    def act(self, effect: str) -> None:
        """Note an effect, and whether the activity that has it was recorded before."""
        info = activity_info()
        execution, run, _ = info.idempotency_key.split("/", 2)
        if (int(execution, 16), int(run), info.activity_id) in self.recorded:
            self.repeated.append(info.activity_id)
        self.effects[effect] += 1


class OutOfStockError(Exception):
    """The order can't be fulfilled."""


world = World()


@activity
async def sweep_reserve(item: str) -> str:
    world.act(f"reserve {item}")
    await asyncio.sleep(0)
    return f"reservation of {item}"


@sweep_reserve.compensation
async def sweep_release(reservation: str, item: str) -> None:
    world.act(f"release {item}: {reservation}")


@activity(retry=_AT_ONCE)
async def sweep_charge(item: str) -> int:
    attempt = activity_info().attempt
    world.act(f"charge {item} attempt {attempt}")
    if attempt == 1:
        raise ConnectionError("the bank is away")
    return 5


@sweep_charge.compensation
def sweep_refund(amount: int, item: str) -> int:
    world.act(f"refund {amount} for {item}")
    return -amount


@activity
def sweep_label(item: str) -> str:
    world.act(f"label {item}")
    return f"label of {item}"


@activity
async def sweep_ship(item: str, approval: str) -> str:
    world.act(f"ship {item}, {approval}")
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
    outcome = " ".join([await _outcome(depot), await _outcome(order)])
    return outcome, {handle.id: await _events(handle) for handle in (depot, order)}


async def _outcome(handle: Handle[Any]) -> str:
    try:
        return repr(await insist(handle.result))
    except WorkflowFailedError as exc:
        return f"{type(exc).__name__}({exc})"


async def _events(handle: Handle[Any]) -> list[tuple[str, str | None, str]]:
    """Return what is recorded, without times and order: activities side by side may end in any."""
    events = await insist(handle.history)
    assert [event.seq for event in events] == list(range(len(events)))
    return sorted((event.kind, event.activity_id or "", _without_times(event.payload or "null")) for event in events)


def _without_times(payload: str) -> str:
    value: Any = json.loads(payload)
    if not isinstance(value, dict):
        return payload
    fields = cast("dict[str, Any]", value)
    if "failure" in fields:
        fields["failure"] = fields["failure"]["message"]
    stable = {name: fields[name] for name in fields if name not in _VOLATILE}
    return json.dumps(stable, sort_keys=True)
