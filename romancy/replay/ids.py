"""Deterministic names and numbers: scopes, hashes, uuids, random numbers."""

from __future__ import annotations

import uuid
from hashlib import blake2b
from typing import NamedTuple

from romancy.core.instance_ids import LONGEST_ID

UNDOING = "undo"
"""The path of the task that undoes a run which has failed."""


class Scope:
    """Count what one task of a run asks for; operations, tasks and timers are counted separately.

    ``path`` is empty for the root task, ``t4`` for the fourth task that it spawned, ``t4.1`` for the first of that.
    """

    __slots__ = ("draws", "operations", "path", "tasks", "timers")

    def __init__(self, path: str) -> None:
        self.path = path
        self.operations = 0
        self.tasks = 0
        self.timers = 0
        self.draws = 0

    def next_position(self) -> str:
        """Return the position of the scope's next operation: ``3``, or ``t4.1``."""
        self.operations += 1
        return f"{self.path}.{self.operations}" if self.path else str(self.operations)

    def next_timer(self) -> str:
        """Return the id of the scope's next timer: ``@2``, or ``t4@2``."""
        self.timers += 1
        return f"{self.path}@{self.timers}"

    def child(self) -> Scope:
        """Return the scope of the task that is spawned next."""
        self.tasks += 1
        return Scope(f"{self.path}.{self.tasks}" if self.path else f"t{self.tasks}")


def _digest(execution_id: int, run: int, subject: str, size: int) -> bytes:
    return blake2b(f"{execution_id}/{run}/{subject}".encode(), digest_size=size).digest()


def hash_salt(execution_id: int, run: int) -> int:
    """Return the number from which the hashes of a run's tasks and futures count up.

    asyncio keeps all tasks of a process in one WeakSet: runs that share hashes make its look-ups linear.
    """
    return int.from_bytes(_digest(execution_id, run, "hash", 7), "big")


class Names(NamedTuple):
    """What the names and numbers that a run gives derive from.

    A run that is retried or rerun from one of its activities has others from there on: what it asks for then is not
    what it may have asked for under the same activity id before.

    Attributes:
        number: A start's random number: this one's, or in turns that were copied the other's.
        run: The run's number.
        instance_id: The instance that has been started so.
        mark: Tells what was asked for since the last retry from what was asked for before; empty: there was none.
    """

    number: int
    run: int
    instance_id: str
    mark: str = ""

    def message_id(self, activity_id: str) -> str:
        """Return the id of a message that the run sends: the same whenever its commit is tried."""
        return f"{self.number:x}/{self.run}/{activity_id}{self.suffix}"

    def child_number(self, activity_id: str) -> int:
        """Return a random-looking 62-bit number that is the same at every replay: a child's ``execution_id``."""
        return int.from_bytes(self._digest(activity_id, 8), "big") >> 2

    def child_id(self, activity_id: str) -> str:
        """Return the id of a child that was given none: it names its parent, and differs for every start and run."""
        mark = self._digest("child", 4).hex()
        chosen = f"{self.instance_id}/{activity_id}~{mark}"
        if len(chosen) <= LONGEST_ID:
            return chosen
        return f"child-{self._digest(chosen, 16).hex()}"

    def uuid(self, scope: Scope) -> uuid.UUID:
        """Return a version 4 UUID: the same at every replay, another for every start, run, scope and draw."""
        scope.draws += 1
        return uuid.UUID(bytes=self._digest(f"{scope.path}/{scope.draws}", 16), version=4)

    def random(self, scope: Scope) -> float:
        """Return a float in [0, 1) with 53 random bits, as `uuid` returns UUIDs."""
        scope.draws += 1
        return (int.from_bytes(self._digest(f"{scope.path}/{scope.draws}", 8), "big") >> 11) * 2.0**-53

    @property
    def suffix(self) -> str:
        """What is added to an activity id to tell it from what had the id before the last retry."""
        return f"~{self.mark}" if self.mark else ""

    def _digest(self, subject: str, size: int) -> bytes:
        return _digest(self.number, self.run, subject + self.suffix, size)
