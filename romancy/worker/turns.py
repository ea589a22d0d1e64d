"""Scheduling turns: what has arrived becomes a turn, the turn an entry, its acknowledgement what happens outside."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from romancy.core.clock import MICROSECONDS
from romancy.core.commands import CancelActivity, RunActivity
from romancy.core.events import Event, MessageReceived, Note, TimerFired
from romancy.core.failures import Failure, failure_of
from romancy.core.records import LEAVE, Accepted, Refused, Rejected, Status
from romancy.core.requests import Unsubscribe
from romancy.errors import StorageError, WorkflowBlockedError, page_of
from romancy.replay.execution import Turn
from romancy.replay.journal import RecordedTurn, note_of, release_of
from romancy.replay.operations import command_of, is_result
from romancy.worker.entries import (
    blocking_entry,
    entry_of,
    has_to_be_written,
    is_busy_after,
    wake_after,
)
from romancy.worker.hot import UNKNOWN, HotRun
from romancy.worker.inbox import release_of_item
from romancy.worker.loading import load, unanswered, without_stale_results
from romancy.worker.slot import grant
from romancy.worker.stacks import with_stacks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.core.clock import Clock
    from romancy.core.events import Arrival, Release
    from romancy.core.records import Claim, Entry, InboxItem
    from romancy.replay.execution import Execution
    from romancy.replay.guard import Guard
    from romancy.worker.activities import ActivityRunner
    from romancy.worker.committer import Answer, Committer
    from romancy.worker.hot import HotSet
    from romancy.worker.surroundings import Surroundings
    from romancy.worker.timers import Alarms
    from romancy.worker.watching import Leaving, Watching

_logger = logging.getLogger("romancy")
_SLICE = 0.005
"""Seconds of turns after which the host's event loop gets its turn."""
_BLOCKED_AGAIN_PAUSE = 10 * MICROSECONDS
_RESULT, _TIMER, _INBOX = 1, 2, 0


class Turns:
    """Compute the turns of hot runs, in the order in which something arrived for them.

    A run has at most one uncommitted entry, and what its turn asks for happens after the acknowledgement. Turns are
    computed in plain callbacks of the host's loop, never inside a task.
    """

    def __init__(
        self,
        *,
        hot: HotSet,
        committer: Committer,
        activities: ActivityRunner,
        alarms: Alarms,
        clock: Clock,
        guard: Guard | None,
        build: str,
        max_recoveries: int,
        surroundings: Surroundings,
        watching: Watching,
    ) -> None:
        self._hot = hot
        self._committer = committer
        self._activities = activities
        self._alarms = alarms
        self._clock = clock
        self._guard = guard
        self._build = build
        self._max_recoveries = max_recoveries
        self._around = surroundings
        self._watching = watching
        self._queue: deque[HotRun] = deque()
        self._is_scheduled = False
        self._arrived = 0
        # Empty: what one request has set must not be seen by the activities of all others.
        self._context = contextvars.Context()
        self.is_draining = False

    @property
    def is_busy(self) -> bool:
        """Whether a turn or a commit is under way."""
        return bool(self._queue) or any(run.is_committing or run.is_queued for run in self._hot)

    # -- what arrives -----------------------------------------------------------------------------------

    def adopt(self, claim: Claim) -> None:
        """Take in an instance that this worker has claimed."""
        stale = self._hot.get(claim.instance.key)
        if stale is not None:
            self.drop(stale, "taken over")
        run = HotRun(claim, self._around.make_execution(claim))
        self._hot.add(run)
        self._watching.adopted(run, claim)
        self._deliver_inbox(run, claim.inbox)
        self.wake(run)

    def result(self, run: HotRun, release: Release) -> None:
        """Hand over the outcome of an activity."""
        self._arrive(run, self._clock.now(), _RESULT, release)

    def mail(self, run: HotRun, items: Iterable[InboxItem], inbox_seq: int, status: Status) -> None:
        """Hand over inbox rows, and note up to where the inbox has been looked at, and whether the run is paused."""
        fresh = [item for item in items if item.seq > run.inbox_looked]
        if run.is_paused and status is not Status.PAUSED and not run.is_committing:
            run.is_paused = False
            for command in unanswered(run):
                self._start(run, command)  # what was not begun while it was paused
        run.is_paused = status is Status.PAUSED
        run.inbox_looked = max(run.inbox_looked, inbox_seq)
        run.is_mail_expected = False
        run.wake_at = UNKNOWN
        run.has_fresh_mail = run.is_committing
        self._deliver_inbox(run, fresh)
        self.wake(run)

    def rang(self, key: int) -> None:
        """Go on with a run one of whose deadlines may have come."""
        run = self._hot.get(key)
        if run is None:
            return
        run.alarm_at = None
        if run.is_committing:
            return  # the commit may be what lets the run go; if it is not, it sets the alarm again
        now = self._clock.now()
        if not self.is_draining and not run.is_paused:
            self._go_on_with_due(run, now)
        self.wake(run)

    def _go_on_with_due(self, run: HotRun, now: int) -> None:
        """Begin the attempts that are due, and time out what was handed over and is overdue."""
        for delay, call in run.execution.operations.begin_due(now):
            command = command_of(call)
            if delay.is_handed_over:
                deadline = delay.due or now
                self._arrive(run, deadline, _RESULT, self._activities.outcomes.after_silence(command, deadline))
            else:
                self._activities.start(run, command)

    def body_ended(self, run: HotRun) -> None:
        """Note that an activity's body has ended without an outcome that counts."""
        self.wake(run)

    def _deliver_inbox(self, run: HotRun, items: Iterable[InboxItem]) -> None:
        for item in items:
            # Their numbers tell their order: the clock may have been set back in between.
            run.inbox_at = max(run.inbox_at, item.at)
            self._arrive(run, run.inbox_at, _INBOX, release_of_item(item))

    def _arrive(self, run: HotRun, at: int, rank: int, release: Arrival) -> None:
        if run.is_gone:
            return
        self._arrived += 1
        run.arrivals.append((at, rank, self._arrived, release))
        self.wake(run)

    def wake(self, run: HotRun) -> None:
        """Have a run looked at soon."""
        if run.is_queued or run.is_committing or run.is_gone:
            return
        run.is_queued = True
        self._hot.mark_active(run)
        self._queue.append(run)
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._advance_some, context=self._context)

    # -- turns ------------------------------------------------------------------------------------------

    def _advance_some(self) -> None:
        self._is_scheduled = False
        until = time.monotonic() + _SLICE
        while self._queue:
            run = self._queue.popleft()
            run.is_queued = False
            if not run.is_gone and not run.is_committing:
                try:
                    self._advance(run)
                except Exception as exc:  # noqa: BLE001 - a row that can't be read harms its own instance alone
                    self._block(run, failure_of(exc), run.undrained)
                if run.slot_waiters:
                    grant(run)
            if time.monotonic() > until:
                break
        if self._queue and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._advance_some, context=self._context)

    def _advance(self, run: HotRun) -> None:
        execution = run.execution
        if not run.is_loaded and not self._load(run):
            return
        now = self._clock.now()
        if run.is_paused:
            self._rest(run, now)
            return
        recorded = run.recorded
        if recorded is not None:
            run.recorded = None
            turn = execution.activate(recorded.releases, stamp=recorded.stamp, is_recorded=True, guard=self._guard)
        else:
            is_first = execution.turn == 0
            # A run that had parked before its first event begins anew: its timers may precede what has arrived.
            batch = [] if is_first and run.has_parked else self._batch(run, now)
            if not batch and not is_first and execution.closing is None:
                self._settle(run)
                return
            turn = execution.activate(batch, stamp=run.started_at if is_first else now, guard=self._guard)
            if is_first and run.has_parked:
                execution.loop.reports.clear()  # they were made when the turn was computed for the first time
        if execution.loop.reports:
            self._report(run)
        self._commit(run, turn, now)

    def _batch(self, run: HotRun, now: int) -> list[Arrival]:
        """Return what is released next: inbox rows by their arrival, results by theirs, timers by their deadline."""
        arrivals = run.arrivals
        run.arrivals = []
        timers = run.execution.timers.due(now)
        if not timers and len(arrivals) <= 1:
            return [arrivals[0][3]] if arrivals else []
        arrivals += [(at, _TIMER, index, TimerFired(timer_id)) for index, (at, timer_id) in enumerate(timers)]
        arrivals.sort(key=lambda arrival: arrival[:3])
        return [release for *_, release in arrivals]

    def _load(self, run: HotRun) -> bool:
        """Bring a claimed run to where its history ends; False if it can't be."""
        events = run.next_seq
        has_begun = bool(events) or run.has_parked
        if has_begun:
            self._watching.loading(run, events)
        begun_at = time.perf_counter()
        failure = load(run, max_recoveries=self._max_recoveries, guard=self._guard)
        if failure is not None:
            self._block(run, failure, run.undrained)
            return False
        if has_begun:
            self._watching.loaded(run, events, time.perf_counter() - begun_at)
        self._report(run)
        for command in unanswered(run):
            self._start(run, command)
        return True

    def _report(self, run: HotRun) -> None:
        """Log what the workflow's code left to asyncio's exception handler."""
        reports = run.execution.loop.reports
        while reports:
            context = reports.pop(0)
            level = logging.WARNING if context.get("is_warning") else logging.ERROR
            _logger.log(level, "instance %s: %s", run.id, context.get("message"), exc_info=context.get("exception"))

    # -- commits ----------------------------------------------------------------------------------------

    def _commit(self, run: HotRun, turn: Turn, now: int) -> None:
        if turn.blocked is not None:
            failure = with_stacks(turn.blocked, run.execution)
            entry = blocking_entry(run, turn, failure, build=self._build, wake_at=self._blocked_until(run, now))
            self._note_blocked(run, failure, turn.notes)
        else:
            is_busy = self.is_draining or is_busy_after(run, turn, now)
            is_freed = not is_busy and self._hot.limit == 0
            wake_at = wake_after(run, now, is_busy=is_busy)
            if is_freed and wake_at == LEAVE:
                wake_at = run.wake_at
            entry = entry_of(run, turn, now=now, wake_at=wake_at, is_freed=is_freed)
            if not has_to_be_written(entry, run):
                self._watching.committed(run)
                self._apply(run, turn, [])
                return
        self._submit(run, turn, entry)

    def _settle(self, run: HotRun) -> None:
        """Leave a run that has nothing to do: write when it is next due, or let it go."""
        self._set_alarm(run)
        if not run.is_idle or run.is_mail_expected or self.is_draining:
            return
        if run.execution.operations.underway:  # no body runs, so nobody would ever answer them
            for command in unanswered(run):
                self._start(run, command)
            return
        now = self._clock.now()
        nothing = _empty_turn(run, now)
        self._hot.mark_idle(run)
        self._around.room_freed()
        wake_at = wake_after(run, now, is_busy=is_busy_after(run, nothing, now))
        if self._hot.limit == 0:
            self._free(run)
        elif wake_at != LEAVE or run.inbox_looked > run.inbox_written:
            self._submit(run, nothing, entry_of(run, nothing, now=now, wake_at=wake_at, is_freed=False))
        elif len(self._hot) > self._hot.limit:
            self.evict_surplus(math.inf)

    def _rest(self, run: HotRun, now: int) -> None:
        """Let a paused run leave memory as soon as none of its bodies runs; what they ended in is kept for later.

        It comes after what is recorded and not gone on from already, if there is such: there is one such turn at most.
        """
        if run.bodies or run.is_committing:
            return
        notes = [note_of(release) for *_, release in run.arrivals if is_result(release)]
        recorded = run.recorded
        number = run.execution.turn + 1 if recorded is None else recorded.number
        stamp = max(now, run.execution.loop.stamp) if recorded is None else recorded.stamp
        undrained = len(notes) if recorded is None else run.undrained + len(notes)
        kept = Turn(number, stamp, notes, undrained, (), [], None, None)
        self._hot.mark_leaving(run)
        self._watching.recorded(run, notes)
        self._submit(run, kept, entry_of(run, kept, now=now, wake_at=now, is_freed=True))

    def _free(self, run: HotRun) -> None:
        """Let an idle run leave memory; it is claimable when it is due."""
        now = self._clock.now()
        nothing = _empty_turn(run, now)
        if is_busy_after(run, nothing, now):
            return
        self._hot.mark_leaving(run)
        wake_at = run.next_deadline()
        self._submit(run, nothing, entry_of(run, nothing, now=now, wake_at=wake_at, is_freed=True))

    def evict_surplus(self, idle_timeout: float) -> None:
        """Let the longest idle runs leave memory while there are too many, or they have been idle for too long."""
        for run in self._hot.surplus(idle_timeout):
            if run.is_idle:
                self._free(run)

    def _block(self, run: HotRun, failure: Failure, undrained: int = 0) -> None:
        """Block a run outside of a turn; its last ``undrained`` events stay to be gone on from."""
        failure = with_stacks(failure, run.execution)
        self._note_blocked(run, failure, [])
        stamp = max(self._clock.now(), run.execution.loop.stamp)
        nothing = Turn(run.execution.turn + 1, stamp, [], undrained, (), [], None, failure)
        entry = blocking_entry(run, nothing, failure, build=self._build, wake_at=self._blocked_until(run, stamp))
        self._submit(run, nothing, entry)

    def _note_blocked(self, run: HotRun, failure: Failure, kept: list[Note]) -> None:
        _logger.error("instance %s is blocked: %s (see %s)", run.id, failure.message, page_of(WorkflowBlockedError))
        self._watching.blocked(run, failure, kept)

    @staticmethod
    def _blocked_until(run: HotRun, now: int) -> int:
        """Return when another build may try a blocked run: at once, or after a pause if it was blocked before.

        Two builds that both can't go on with it would otherwise hand it to each other without a break.
        """
        return now if run.blocked_by is None else now + _BLOCKED_AGAIN_PAUSE

    def _submit(self, run: HotRun, turn: Turn, entry: Entry) -> None:
        run.is_committing = True
        self._hot.mark_active(run)
        self._committer.submit(entry, run, partial(self.answered, run, turn, entry))

    def answered(self, run: HotRun, turn: Turn, entry: Entry, answer: Answer) -> None:
        """Take in what has become of a turn's entry; its commit is over."""
        run.is_committing = False
        if run.is_gone:
            return
        match answer:
            case Accepted(outcomes, is_mailed):
                run.next_seq += len(entry.notes) + len(outcomes)
                run.inbox_written = entry.inbox_seen
                run.undrained = len(outcomes)
                run.is_mail_expected = is_mailed
                if is_mailed or run.has_fresh_mail:
                    run.wake_at = UNKNOWN
                elif entry.wake_at != LEAVE:
                    run.wake_at = entry.wake_at
                run.has_fresh_mail = False
                run.is_paused = run.is_paused or answer.is_paused
                self._watching.recorded(run, outcomes)
                self._watching.committed(run)
                self._tell_others(run, answer)
                if entry.orders or entry.silenced:
                    self._forget(run, entry)
                if entry.is_freed and turn.blocked is None:
                    self.drop(run, "paused" if run.is_paused else "waiting")
                    self._around.run_freed(self._clock.now() if is_mailed else entry.wake_at)
                else:
                    self._accepted(run, turn, entry, outcomes)
            case Rejected(reason):
                _logger.info("instance %s has moved on without this worker: %s", run.id, reason)
                self.drop(run, "taken over")
                self._around.lost_sight()  # the session owns it still if an entry of its own has come before this one
            case Refused(error):
                self._refused(run, entry, error)
        if run.slot_waiters:
            grant(run)

    def _tell_others(self, run: HotRun, answer: Accepted) -> None:
        if answer.recipients or answer.mailed:
            self._around.mail_expected((*answer.recipients, run.key) if answer.mailed else answer.recipients)
        if answer.has_topics:
            self._around.topics_expected()
        if answer.ended:
            self._around.terminated(answer.ended)

    @staticmethod
    def _forget(run: HotRun, entry: Entry) -> None:
        """Forget what an entry has deleted: heartbeats, and the messages of subscriptions that it has closed."""
        for activity_id in entry.silenced:
            run.beats.pop(activity_id, None)
        closed = {order.mailbox for order in entry.orders if isinstance(order, Unsubscribe)}
        if closed:
            run.arrivals = [
                arrival
                for arrival in run.arrivals
                if not (isinstance(arrival[3], MessageReceived) and arrival[3].mailbox in closed)
            ]

    def _accepted(self, run: HotRun, turn: Turn, entry: Entry, outcomes: list[Event]) -> None:
        if turn.blocked is not None or entry.status.is_closed:
            for command in turn.commands:  # what somebody outside has finished comes to its end by itself
                if isinstance(command, CancelActivity) and command.is_over:
                    self._activities.let_go(run, command.activity_id)
            self.drop(run)
            payload = entry.reason if turn.blocked is not None else entry.notes[-1].payload
            self._watching.ended(run, entry.status, entry.stamp, payload)
            self._around.run_ended(run, entry.status, payload)
            return
        if entry.next_run is not None:
            self._recur(run, turn)
            return
        self._apply(run, turn, outcomes)

    def _refused(self, run: HotRun, entry: Entry, error: str) -> None:
        if entry.status is Status.BLOCKED:
            _logger.error("instance %s: the database refuses even to block it: %s", run.id, error)
            self.drop(run, "taken over")
            self._around.lost_sight()
            return
        self._activities.cancel_all(run)
        failure = failure_of(StorageError(f"the database refuses what its turn commits: {error}"))
        self._block(run, failure, run.undrained)

    def _apply(self, run: HotRun, turn: Turn, outcomes: list[Event]) -> None:
        """Do what a committed turn asks for outside."""
        if run.arrivals:
            run.arrivals = without_stale_results(run.arrivals, turn.commands)
        for command in turn.commands:
            if isinstance(command, RunActivity):
                self._start(run, command)
            elif isinstance(command, CancelActivity):
                if command.is_over:
                    self._activities.let_go(run, command.activity_id)
                else:
                    self._activities.cancel(run, command.activity_id)
        if outcomes:
            releases = [release for event in outcomes if (release := release_of(event)) is not None]
            run.recorded = RecordedTurn(turn.number + 1, turn.stamp, releases)
        if outcomes or run.arrivals or run.is_paused:
            self.wake(run)
        elif not run.bodies:
            self._settle(run)
        elif len(run.execution.operations.delays) or len(run.execution.timers):
            self._set_alarm(run)

    def _start(self, run: HotRun, command: RunActivity) -> None:
        if self.is_draining or run.is_paused:
            return
        if command.attempt == 1:
            self._activities.start(run, command)
            return
        self._activities.cancel(run, command.activity_id)  # somebody outside may have failed an attempt that runs
        if command.activity_id not in run.execution.operations.delays:
            self._activities.start(run, command)
        elif command.not_before > (now := self._clock.now()):
            self._set_alarm(run)
        else:
            self._go_on_with_due(run, now)

    def _set_alarm(self, run: HotRun) -> None:
        """Have a run looked at when it is next due: not while the worker stops, for what is due then is left to others.

        It would stay due, and ring for as long as the stopping takes.
        """
        if self.is_draining:
            return
        deadline = run.next_deadline()
        if deadline is not None and (run.alarm_at is None or deadline < run.alarm_at):
            run.alarm_at = deadline
            self._alarms.set(deadline, run.key)

    def _recur(self, run: HotRun, turn: Turn) -> None:
        # Nothing of the old run may reach the new one, whose activities have the same ids.
        self._activities.cancel_all(run)
        run.beats.clear()
        run.arrivals = [arrival for arrival in run.arrivals if arrival[1] == _INBOX]
        run.alarm_at = None
        self._alarms.cancel(run.key)
        unread = run.execution.inbox
        old = run.execution
        run.execution = self._around.next_execution(run, turn)
        run.execution.inbox = unread
        run.run += 1
        run.next_seq = 0
        run.has_parked = False
        run.started_at = turn.stamp
        self._watching.recurred(run, turn.stamp)
        asyncio.get_running_loop().call_soon(self._suspend, run.id, old)
        self.wake(run)

    # -- leaving memory ---------------------------------------------------------------------------------

    def drop(self, run: HotRun, reason: Leaving | None = None) -> None:
        """Forget a run: its bodies are cancelled and their results dropped, its coroutines unwound.

        Args:
            run: It.
            reason: Why it leaves memory; None: it has come to its end, or is blocked.
        """
        if run.is_gone:
            return
        run.is_gone = True
        if reason is not None:
            self._watching.suspended(run, reason)
        self._hot.remove(run)
        self._around.room_freed()
        self._alarms.cancel(run.key)
        self._activities.cancel_all(run)
        run.arrivals.clear()
        asyncio.get_running_loop().call_soon(self._suspend, run.id, run.execution)

    def _suspend(self, instance_id: str, execution: Execution) -> None:
        for warning in execution.suspend(self._guard):
            _logger.warning("instance %s: %s", instance_id, warning)

    def drop_all(self, reason: Leaving) -> None:
        """Forget every run."""
        for run in self._hot:
            self.drop(run, reason)
        self._queue.clear()


def _empty_turn(run: HotRun, now: int) -> Turn:
    """Return a turn in which nothing happens: what a commit without events is made of."""
    return Turn(run.execution.turn, max(now, run.execution.loop.stamp), [], 0, (), [], None, None)
