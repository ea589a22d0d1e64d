"""What must hold of a demo's evidence. Pure functions: each returns what it found wrong."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from romancy.cli.demo.evidence import failure_of, recorded_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from romancy.cli.demo.evidence import Evidence, Operation

_UNDONE_BY = {"reserve": "release", "charge": "refund"}


class Check(msgspec.Struct, frozen=True):
    """One thing that must hold, and what speaks against it.

    Attributes:
        name: A word for programs.
        claim: A sentence for people.
        problems: What was found wrong; empty: it holds.
    """

    name: str
    claim: str
    problems: list[str]

    @property
    def is_ok(self) -> bool:
        """Whether it holds."""
        return not self.problems


def check(evidence: Evidence) -> list[Check]:
    """Check everything, in the order in which it is told."""
    return [Check(name, claim, list(find(evidence))) for name, claim, find in _CHECKS]


def _not_killed(evidence: Evidence) -> Iterable[str]:
    if len(evidence.kills) != evidence.kills_wanted:
        yield f"it was killed {len(evidence.kills)} times instead of {evidence.kills_wanted}"
    for kill in evidence.kills:
        if not kill.under_way:
            yield f"process {kill.pid} was doing nothing when it was killed"


def _not_ended(evidence: Evidence) -> Iterable[str]:
    rejected = frozenset(evidence.rejected())
    for order in evidence.orders:
        id_ = order.instance_id
        status = evidence.statuses.get(id_, "not there")
        if status != "completed" and id_ not in rejected:
            why = evidence.reasons.get(id_) or failure_of(evidence.histories.get(id_, []))
            yield f"{id_} is {status}{f' ({why})' if why else ''}"


def _ran_again(evidence: Evidence) -> Iterable[str]:
    """Find bodies that began although there was a result.

    Judged twice: by what was recorded when a process was dead, and by the value that is recorded now: no body may
    begin after the line that tells of its making.
    """
    for kill in evidence.kills:
        for line in evidence.ledger[kill.lines :]:
            if line.what == "began" and line.operation in kill.recorded:
                yield f"{_named(line.operation)} was recorded before {kill.pid} died, and began in {line.pid}"
    results = evidence.results()
    made: set[Operation] = set()
    for line in evidence.ledger:
        if line.what == "began" and line.operation in made:
            yield f"{_named(line.operation)} began again after the result that is recorded"
        elif line.what == "done" and results.get(line.operation) == line.value:
            made.add(line.operation)


def _not_true(evidence: Evidence) -> Iterable[str]:
    """Find results that no body gave, or that are recorded more than once."""
    made = {(line.operation, line.value) for line in evidence.ledger if line.what == "done"}
    done = {line.operation for line in evidence.ledger if line.what == "done"}
    for operation, value in evidence.results().items():
        if operation not in done or (value and (operation, value) not in made):
            yield f"{_named(operation)} has the recorded result {value!r}, which no body gave"
    recorded = recorded_in(evidence.histories)
    for id_, history in evidence.histories.items():
        times = Counter(event.activity_id for event in history if event.kind == "activity_completed")
        yield from (f"{_named((id_, str(a)))} is recorded {n} times" for a, n in times.items() if n > 1)
    for operation in done - recorded:
        yield f"{_named(operation)} had its effect, and nothing is recorded"


def _not_taken_back(evidence: Evidence) -> Iterable[str]:
    """Find orders that were not undone, last things first and with the recorded values, just if rejected."""
    rejected = frozenset(evidence.rejected())
    undone: dict[str, list[tuple[str, str]]] = {id_: [] for id_ in evidence.statuses}
    for line in evidence.ledger:
        step = (line.name, line.value)
        if line.what == "done" and line.name in _UNDONE_BY.values() and step not in undone[line.instance]:
            undone[line.instance].append(step)
    results = evidence.results()
    for id_, history in evidence.histories.items():
        due = [
            (_UNDONE_BY[name], results[id_, str(event.activity_id)])
            for event in reversed(history)
            if event.kind == "activity_completed" and (name := str(event.activity_id).rpartition(":")[2]) in _UNDONE_BY
        ]
        if id_ not in rejected:
            due = []
        if undone[id_] != due:
            yield f"{id_} was taken back by {undone[id_]} instead of {due}"


def _keys_changed(evidence: Evidence) -> Iterable[str]:
    keys: dict[Operation, str] = {}
    for line in evidence.ledger:
        if keys.setdefault(line.operation, line.key) != line.key:
            yield f"{_named(line.operation)} had the key {keys[line.operation]} and then {line.key}"
    shared = (key for key, operations in Counter(keys.values()).items() if operations > 1)
    yield from (f"several activities had the key {key}" for key in shared)


def _named(operation: Operation) -> str:
    instance, activity = operation
    return f"{activity} of {instance}"


_CHECKS: tuple[tuple[str, str, Callable[[Evidence], Iterable[str]]], ...] = (
    ("killed", "every kill fell into the middle of work", _not_killed),
    ("ended", "every order was completed or rejected", _not_ended),
    ("never_again", "no recorded activity was ever run again", _ran_again),
    ("true", "every effect is recorded, once, with the result it had", _not_true),
    ("taken_back", "every rejected order was refunded and released", _not_taken_back),
    ("keys", "repeated bodies carried the idempotency key of the first", _keys_changed),
)
