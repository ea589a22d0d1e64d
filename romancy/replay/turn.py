"""What one activation of a run comes to."""

from __future__ import annotations

from typing import NamedTuple

from romancy.core.commands import Command
from romancy.core.events import Note
from romancy.core.failures import Failure
from romancy.core.records import Shown
from romancy.replay.closing import Closing


class RunBlocked(Exception):
    """A programming error ends a turn."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


class Turn(NamedTuple):
    """What one activation of a run asks for.

    Attributes:
        number: The turn's number in the run, from 1.
        stamp: Its time, in epoch microseconds.
        notes: The events to record, in their order.
        undrained: How many of the last events, of ``notes`` or recorded before, the run has not gone on from (a
            blocked run's results, or the recorded turn that it failed in).
        consumed: The inbox rows that it has released.
        commands: What it asks for, in the order of the asking.
        closing: How the run ended, if it did; its event is the last note.
        blocked: Why the run can't go on, if it can't; it must then leave memory.
        shown: What clients can read of the run from its commit on, if that changes.
    """

    number: int
    stamp: int
    notes: list[Note]
    undrained: int
    consumed: tuple[int, ...]
    commands: list[Command]
    closing: Closing | None
    blocked: Failure | None
    shown: Shown | None = None
