"""What is left when all orders have ended: the histories, the ledger, and what was seen at each kill."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

from romancy import HistoryEvent
from romancy.cli.demo.ledger import Line
from romancy.cli.demo.orders import Order

if TYPE_CHECKING:
    from collections.abc import Iterable

Operation = tuple[str, str]
"""Instance and activity id."""

_RECORDED = frozenset({"activity_completed", "activity_failed"})


class Kill(msgspec.Struct, frozen=True):
    """One SIGKILL, and how things stood when the process was dead and the next not yet there.

    Attributes:
        pid: The process.
        ended: How many orders had ended.
        under_way: How many bodies it had begun whose outcome was not recorded.
        lines: How many lines the ledger had.
        recorded: The operations that had a recorded result.
    """

    pid: int
    ended: int
    under_way: int
    lines: int
    recorded: frozenset[Operation]


class Evidence(msgspec.Struct, frozen=True):
    """All that the checks look at.

    Attributes:
        orders: What was ordered.
        statuses: How each instance stands, by its id.
        reasons: Why an instance is blocked, by its id; there should be none.
        histories: What each instance has recorded, by its id.
        ledger: What the bodies did, in order.
        kills: In order.
        kills_wanted: How many there should have been.
        seconds: How long all took.
    """

    orders: list[Order]
    statuses: dict[str, str]
    reasons: dict[str, str]
    histories: dict[str, list[HistoryEvent]]
    ledger: list[Line]
    kills: list[Kill]
    kills_wanted: int
    seconds: float

    def rejected(self) -> list[str]:
        """Return the ids of the instances that ended because their order was rejected."""
        return [
            id_
            for id_, history in self.histories.items()
            if self.statuses[id_] == "failed" and "OrderRejectedError" in failure_of(history)
        ]

    def results(self) -> dict[Operation, str]:
        """Return what is recorded for each operation: the value of its result; empty if it has none."""
        found: dict[Operation, str] = {}
        for id_, history in self.histories.items():
            for event in history:
                if event.kind == "activity_completed":
                    result = json.loads(event.payload or "null")
                    found[id_, str(event.activity_id)] = result["id"] if result else ""
        return found


class Numbers(msgspec.Struct, frozen=True):
    """What the evidence says, in numbers.

    Attributes:
        orders: How many were placed.
        completed: How many were shipped.
        rejected: How many were not approved, and were taken back.
        activities: How many activities have a recorded result, compensations included.
        retried: How many attempts failed and were followed by another.
        cut_short: How many bodies a kill ended before their effect.
        ran_twice: How many activities had their effect twice: the kill fell between effect and record.
    """

    orders: int
    completed: int
    rejected: int
    activities: int
    retried: int
    cut_short: int
    ran_twice: int


def recorded_in(histories: dict[str, list[HistoryEvent]]) -> frozenset[Operation]:
    """Return every operation that has a recorded result."""
    return frozenset(
        (id_, str(event.activity_id))
        for id_, history in histories.items()
        for event in history
        if event.kind in _RECORDED
    )


def failure_of(history: list[HistoryEvent]) -> str:
    """Return type and message of what a run failed with; empty if it did not."""
    if not history or history[-1].kind != "run_failed":
        return ""
    failure = json.loads(history[-1].payload or "{}")
    return f"{failure.get('type', '?')}: {failure.get('message', '')}"


def bodies_under_way(lines: Iterable[Line], pid: int) -> int:
    """Return how many bodies a process has begun and neither brought to their effect nor seen fail."""
    count = 0
    for line in lines:
        if line.pid == pid:
            count += 1 if line.what == "began" else -1
    return count


def bodies_unrecorded(lines: Iterable[Line], pid: int, recorded: frozenset[Operation]) -> int:
    """Return how many bodies a dead process had begun, and not seen fail, whose outcome is not recorded."""
    last = {line.operation: line.what for line in lines if line.pid == pid}
    return sum(1 for operation, what in last.items() if what != "failed" and operation not in recorded)


def count(evidence: Evidence) -> Numbers:
    """Count what the evidence holds."""
    effects: dict[Operation, int] = {}
    for line in evidence.ledger:
        if line.what == "done":
            effects[line.operation] = effects.get(line.operation, 0) + 1
    kinds = [event.kind for history in evidence.histories.values() for event in history]
    return Numbers(
        orders=len(evidence.orders),
        completed=list(evidence.statuses.values()).count("completed"),
        rejected=len(evidence.rejected()),
        activities=kinds.count("activity_completed"),
        retried=kinds.count("activity_retried"),
        cut_short=sum(bodies_under_way(evidence.ledger, kill.pid) for kill in evidence.kills),
        ran_twice=sum(1 for times in effects.values() if times > 1),
    )
