"""A run's one commit slot, taken by a body instead of a turn."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from romancy.core.events import Event
from romancy.core.records import Accepted
from romancy.replay.execution import Turn
from romancy.replay.journal import RecordedTurn
from romancy.worker.hot import UNKNOWN

if TYPE_CHECKING:
    from romancy.core.records import Entry, Rejected
    from romancy.worker.bodies import Body
    from romancy.worker.committer import Answer
    from romancy.worker.hot import HotRun
    from romancy.worker.surroundings import Surroundings
    from romancy.worker.watching import Leaving


class Scheduler(Protocol):
    """What the slots need of `romancy.worker.turns.Turns`."""

    def wake(self, run: HotRun) -> None:
        """Have a run looked at soon."""
        ...

    def drop(self, run: HotRun, reason: Leaving | None = None) -> None:
        """Forget a run, and why."""
        ...

    def answered(self, run: HotRun, turn: Turn, entry: Entry, answer: Answer) -> None:
        """Take in what has become of an entry."""
        ...


def grant(run: HotRun) -> None:
    """Give a run's slot, if it is free, to the body that has waited longest for it.

    It is not while a turn is recorded that the run has yet to go on from; a paused run does not, so that what bodies
    end in is added to that turn.
    """
    while run.slot_waiters and not run.is_committing and (run.recorded is None or run.is_paused):
        body, waiter = run.slot_waiters.popleft()
        if body.is_wanted and not waiter.done():
            run.is_committing = True
            waiter.set_result(None)


class CommitSlots:
    """Give the commit slots of runs to transactional activities, and take what these have committed.

    Who has it may commit an entry of the run, and nobody else may meanwhile: what arrives for the run waits.
    """

    def __init__(self, turns: Scheduler, surroundings: Surroundings) -> None:
        self._turns = turns
        self._around = surroundings

    async def take(self, run: HotRun, body: Body) -> None:
        """Wait until nothing else of the run is being committed, and see to it that nothing is. `free` must follow."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if run.slot_waiters is None:
            run.slot_waiters = deque()
        run.slot_waiters.append((body, waiter))
        grant(run)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.free(run)
            raise

    def free(self, run: HotRun) -> None:
        """Give a slot back without having committed anything."""
        run.is_committing = False
        if run.is_gone:
            return
        if run.has_fresh_mail:
            run.has_fresh_mail = False
            run.wake_at = UNKNOWN
        grant(run)
        self._turns.wake(run)

    def committed(self, run: HotRun, entry: Entry, answer: Accepted | Rejected) -> None:
        """Take in what has become of the entry that holds a result; the slot is free.

        The result is recorded as the next turn's release, and that turn is still to be computed: as if the turn
        before it had asked for something.
        """
        before = Turn(entry.turn - 1, entry.stamp, [], 0, (), [], None, None)
        earlier = run.recorded
        if isinstance(answer, Accepted):
            (note,) = entry.notes
            answer = msgspec.structs.replace(answer, outcomes=[Event(entry.seq, entry.turn, entry.stamp, *note)])
        self._turns.answered(run, before, msgspec.structs.replace(entry, notes=[]), answer)
        if earlier is not None and run.recorded is not None and not run.is_gone:
            releases = [*earlier.releases, *run.recorded.releases]
            run.recorded = RecordedTurn(earlier.number, earlier.stamp, releases)
            run.undrained = entry.undrained

    def lose(self, run: HotRun) -> None:
        """Have a run that nobody knows enough of claimed anew, so that its history tells."""
        self._turns.drop(run, "taken over")
        self._around.lost_sight()
