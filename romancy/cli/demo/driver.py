"""Start orders, answer for the approver, kill the process and start it again, until every order has ended."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from romancy import App, HistoryEvent, InstanceClosedError
from romancy.cli.demo.evidence import Evidence, Kill, bodies_under_way, bodies_unrecorded, recorded_in
from romancy.cli.demo.ledger import LedgerReader
from romancy.cli.demo.orders import Order
from romancy.cli.demo.process import WorkerProcess
from romancy.cli.demo.worker import DATABASE_NAME
from romancy.cli.demo.workflow import LEDGER_NAME, Approval, approvals, fulfil_order

if TYPE_CHECKING:
    from pathlib import Path

    from romancy import Handle

_TICK = 0.05
_LOOK_INTERVAL = 0.2
_PER_SECOND = 42.0
_SHORTEST = 2.5
_STALLED_AFTER = 30.0
_CLOSED = frozenset({"completed", "failed", "cancelled", "terminated"})


class Plan(msgspec.Struct, frozen=True):
    """What is to be done: ``seed`` decides about delays, failing attempts and the moments of the kills."""

    orders: list[Order]
    kills: int
    seed: int


class Progress(msgspec.Struct, frozen=True):
    """How far all is."""

    orders: int
    started: int
    ended: int
    completed: int
    activities: int
    under_way: int


class Screen(Protocol):
    """Whoever tells the user."""

    def show(self, progress: Progress) -> None:
        """Show how far all is; called many times a second."""
        ...

    def say(self, seconds: float, text: str) -> None:
        """Tell what has happened, with the time since the beginning."""
        ...


async def drive(plan: Plan, directory: Path, screen: Screen) -> Evidence:
    """Do as planned, in a directory, and return what is left. The process that it starts does not outlive it.

    Raises:
        ProcessFailedError: The process ended although nobody killed it.
    """
    async with App(f"sqlite:///{directory / DATABASE_NAME}", worker=False) as app:
        process = WorkerProcess(directory, plan.seed)
        try:
            return await _Driver(plan, app, process, LedgerReader(directory / LEDGER_NAME), screen).run()
        finally:
            await process.kill()


class _Driver:
    """One demo: a loop in which everything is looked at, and done if it is due."""

    def __init__(self, plan: Plan, app: App, process: WorkerProcess, ledger: LedgerReader, screen: Screen) -> None:
        self._plan = plan
        self._app = app
        self._process = process
        self._ledger = ledger
        self._screen = screen
        self._random = random.Random(plan.seed)
        self._orders = {order.instance_id: order for order in plan.orders}
        self._handles: dict[str, Handle[Any]] = {}
        self._statuses: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._effects: set[tuple[str, str]] = set()
        self._answers: dict[str, float] = {}
        self._kills: list[Kill] = []
        self._kill_points = self._plan_kills()
        self._pid = 0
        self._began = 0.0
        self._changed = 0.0

    def _plan_kills(self) -> list[float]:
        """Return after how many effects to kill, last one first: evenly spread, with some chance in it."""
        total = sum(order.effects for order in self._plan.orders)
        share = total / (self._plan.kills + 1)
        points = [share * (n + self._random.uniform(0.8, 1.1)) for n in range(self._plan.kills)]
        return points[::-1]

    async def run(self) -> Evidence:
        self._began = self._changed = time.monotonic()
        await self._start_process("started process {pid}")
        looked = 0.0
        while not self._is_over():
            self._process.check()
            await self._start_orders()
            self._read_ledger()
            await self._answer()
            if time.monotonic() - looked > _LOOK_INTERVAL:
                await self._look()
                looked = time.monotonic()
            if self._is_time_to_kill():
                await self._kill()
                await self._start_process("started process {pid}, which goes on from there")
            await asyncio.sleep(_TICK)
        await self._process.stop()
        await self._look()
        self._read_ledger()
        return Evidence(
            orders=self._plan.orders,
            statuses=self._statuses,
            reasons=self._reasons,
            histories=await self._histories(),
            ledger=self._ledger.lines,
            kills=self._kills,
            kills_wanted=self._plan.kills,
            seconds=self._seconds(),
        )

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _ended(self) -> int:
        return sum(1 for status in self._statuses.values() if status in _CLOSED)

    def _is_over(self) -> bool:
        if self._ended() == len(self._orders):
            return True
        if self._reasons:
            self._screen.say(self._seconds(), "an order is blocked: giving up")
            return True
        if time.monotonic() - self._changed < _STALLED_AFTER:
            return False
        self._screen.say(self._seconds(), f"nothing has happened for {_STALLED_AFTER:.0f} s: giving up")
        return True

    async def _start_process(self, text: str) -> None:
        self._pid = await self._process.start()
        self._screen.say(self._seconds(), text.format(pid=self._pid))

    async def _start_orders(self) -> None:
        """Start the orders that have come in by now."""
        orders = self._plan.orders
        rate = min(_PER_SECOND, len(orders) / _SHORTEST)
        for order in orders[len(self._handles) : int(self._seconds() * rate) + 1]:
            id_ = order.instance_id
            self._handles[id_] = await self._app.start(fulfil_order(order), id=id_)

    def _read_ledger(self) -> None:
        for line in self._ledger.read():
            self._changed = time.monotonic()
            if line.what != "done":
                continue
            self._effects.add(line.operation)
            if line.name == "charge" and line.instance not in self._answers:
                self._answers[line.instance] = self._changed + self._random.uniform(0.1, 0.5)

    async def _answer(self) -> None:
        """Send what the approver has decided by now."""
        now = time.monotonic()
        for id_ in [id_ for id_, at in self._answers.items() if at <= now]:
            self._answers[id_] = float("inf")
            decision = self._orders[id_].approval
            if decision != "unanswered":
                with contextlib.suppress(InstanceClosedError):  # on a slow machine the answer may come too late
                    await self._app.send(approvals, Approval(decision == "granted"), to=id_)

    async def _look(self) -> None:
        """See how the orders stand, and show it."""
        found = await self._app.list(limit=len(self._orders))
        statuses = {info.id: info.status for info in found}
        if statuses != self._statuses:
            self._changed = time.monotonic()
        self._statuses = statuses
        self._reasons = {info.id: info.failure.message for info in found if info.failure is not None}
        self._screen.show(
            Progress(
                orders=len(self._orders),
                started=len(self._handles),
                ended=self._ended(),
                completed=list(statuses.values()).count("completed"),
                activities=len(self._effects),
                under_way=self._under_way(),
            )
        )

    def _under_way(self) -> int:
        return bodies_under_way(self._ledger.lines, self._pid)

    def _is_time_to_kill(self) -> bool:
        self._read_ledger()
        if not self._kill_points or len(self._effects) < self._kill_points[-1]:
            return False
        return self._under_way() > 0

    async def _kill(self) -> None:
        """Kill the process, and write down what it has left behind."""
        self._kill_points.pop()
        await self._process.kill()
        self._read_ledger()
        await self._look()
        recorded = recorded_in(await self._histories())
        kill = Kill(
            pid=self._pid,
            ended=self._ended(),
            under_way=bodies_unrecorded(self._ledger.lines, self._pid, recorded),
            lines=len(self._ledger.lines),
            recorded=recorded,
        )
        self._kills.append(kill)
        orders = "1 order" if kill.ended == 1 else f"{kill.ended} orders"
        self._screen.say(
            self._seconds(), f"killed process {kill.pid} after {orders}, {kill.under_way} bodies under way"
        )

    async def _histories(self) -> dict[str, list[HistoryEvent]]:
        return {id_: await handle.history() for id_, handle in self._handles.items()}
