"""The runs that are in this process's memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Iterator

    from romancy.core.events import Arrival
    from romancy.core.hooks import RunRef
    from romancy.core.records import Claim, Heartbeat
    from romancy.replay.execution import Execution
    from romancy.replay.journal import RecordedTurn
    from romancy.worker.bodies import Body

UNKNOWN = -2
"""`HotRun.wake_at`: somebody else may have written the column."""


class HotRun:
    """One run that this process owns.

    At most one entry of a run is uncommitted (``is_committing``); what arrives meanwhile waits in ``arrivals``
    as (instant, rank, number, release), and bodies that want to commit one in ``slot_waiters``. ``inbox_at`` is the
    instant of what has arrived last in the inbox, and ``beats`` are the heartbeats of activities that the database may
    hold. ``ref`` is what hooks are told of the run; None: there are none.
    """

    __slots__ = (
        "alarm_at",
        "arrivals",
        "beats",
        "blocked_by",
        "bodies",
        "claim",
        "execution",
        "execution_id",
        "has_fresh_mail",
        "has_parked",
        "id",
        "idle_since",
        "inbox_at",
        "inbox_looked",
        "inbox_written",
        "is_committing",
        "is_gone",
        "is_leaving",
        "is_loaded",
        "is_mail_expected",
        "is_paused",
        "is_queued",
        "key",
        "next_seq",
        "recorded",
        "ref",
        "run",
        "slot_waiters",
        "started_at",
        "trace_context",
        "undrained",
        "wake_at",
    )

    def __init__(self, claim: Claim, execution: Execution) -> None:
        instance = claim.instance
        self.claim: Claim | None = claim
        self.execution = execution
        self.key = instance.key
        self.id = instance.id
        self.execution_id = instance.execution_id
        self.run = instance.run
        self.trace_context = instance.trace_context
        self.ref: RunRef | None = None
        self.has_parked = execution.has_parked = instance.next_seq == 0 and instance.waiting_on is not None
        self.next_seq = instance.next_seq
        self.started_at = instance.started_at or 0
        self.wake_at: int | None = instance.wake_at
        self.inbox_at = 0
        self.inbox_looked = instance.inbox_seq
        self.inbox_written = instance.inbox_seen
        self.arrivals: list[tuple[int, int, int, Arrival]] = []
        self.recorded: RecordedTurn | None = None
        self.bodies: dict[str, Body] = {}
        self.beats: dict[str, Heartbeat] = {beat.activity_id: beat for beat in claim.heartbeats}
        self.alarm_at: int | None = None
        self.idle_since = 0.0
        self.is_loaded = False
        self.is_queued = False
        self.is_committing = False
        self.is_gone = False
        self.is_leaving = False
        self.is_paused = False
        self.blocked_by = instance.build
        self.has_fresh_mail = False
        self.undrained = instance.next_seq - instance.drained_seq
        self.is_mail_expected = False
        self.slot_waiters: deque[tuple[Body, asyncio.Future[None]]] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing of the run is under way: only a timer, a back-off or its inbox can wake it."""
        return not (self.bodies or self.arrivals or self.recorded or self.is_committing or self.is_queued)

    def next_deadline(self) -> int | None:
        """Return when a run that is not busy goes on by itself, in epoch microseconds; None: never.

        That is its earliest timer, next attempt, or time-out of an activity that was handed over.
        """
        timer = self.execution.timers.next_deadline()
        due = self.execution.operations.delays.next_due()
        if due is None:
            return timer
        return due if timer is None or due < timer else timer


class HotSet:
    """The hot runs by key; the idle ones in the order in which they became idle."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._runs: dict[int, HotRun] = {}
        self._idle: OrderedDict[int, HotRun] = OrderedDict()
        self._leaving = 0

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[HotRun]:
        return iter(list(self._runs.values()))

    @property
    def active(self) -> int:
        """How many runs have something under way."""
        return len(self._runs) - len(self._idle)

    def get(self, key: int) -> HotRun | None:
        """Return the run of an instance, if it is hot."""
        return self._runs.get(key)

    def add(self, run: HotRun) -> None:
        """Take a run in, as active."""
        self._runs[run.key] = run

    def remove(self, run: HotRun) -> None:
        """Let a run go."""
        if self._runs.get(run.key) is run:
            del self._runs[run.key]
            self._idle.pop(run.key, None)
            self._leaving -= run.is_leaving

    def mark_active(self, run: HotRun) -> None:
        """Note that something of a run is under way."""
        if run.key in self._idle:
            del self._idle[run.key]

    def mark_idle(self, run: HotRun) -> None:
        """Note that a run waits."""
        run.idle_since = time.monotonic()
        self._idle[run.key] = run
        self._idle.move_to_end(run.key)

    def mark_leaving(self, run: HotRun) -> None:
        """Note that a run's freeing commit is under way: nobody else has to leave in its place."""
        if not run.is_leaving:
            run.is_leaving = True
            self._leaving += 1

    def surplus(self, idle_timeout: float) -> list[HotRun]:
        """Return the idle runs that should leave memory, longest idle first."""
        found: list[HotRun] = []
        over = len(self._runs) - self._leaving - self.limit
        oldest_kept = time.monotonic() - idle_timeout
        for run in self._idle.values():
            if len(found) >= over and run.idle_since > oldest_kept:
                break
            found.append(run)
        return found

    def clear(self) -> None:
        """Forget all runs."""
        self._runs.clear()
        self._idle.clear()
        self._leaving = 0
