"""Telling hooks what happens in a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec.structs import replace

from romancy.core.clock import MICROSECONDS
from romancy.core.failures import decode_failure
from romancy.core.hooks import (
    ActivityEvent,
    BatchCommitted,
    InstanceCounts,
    Nondeterminism,
    ReplayEvent,
    RunRef,
    SessionLost,
    WorkflowBegan,
    WorkflowEnded,
    WorkflowSuspended,
)
from romancy.core.records import Status
from romancy.core.tracing import context_of_run
from romancy.observers import ref_of
from romancy.replay.observing import Observer
from romancy.replay.undoing import is_compensation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.core.clock import Clock
    from romancy.core.events import Event, Note
    from romancy.core.failures import Failure
    from romancy.core.records import Claim, OpenCounts
    from romancy.core.tracing import TraceContext
    from romancy.observers import Observers
    from romancy.worker.bodies import Body
    from romancy.worker.hot import HotRun

Leaving: TypeAlias = Literal["waiting", "paused", "shutdown", "session lost", "taken over"]

_OUTCOMES = frozenset({"activity_completed", "activity_failed", "compensation_completed", "compensation_failed"})
_NONDETERMINISM = "romancy.errors:NondeterminismError"


class Watching:
    """Tell hooks of a worker's runs; where nobody watches, nothing is done and nothing is kept.

    Nothing here changes what becomes of a run.
    """

    def __init__(self, observers: Observers, clock: Clock) -> None:
        self._observers = observers
        self._clock = clock
        self.is_on = observers.is_watching
        self._is_tracing = observers.propagator is not None
        self._has_replays = observers.has_replays or observers.wants("activity_cache_hit")

    def trace_of(self, stored: str | None, execution_id: int, run: int) -> TraceContext | None:
        """Return where a run stands in a trace; None if nobody has asked for traces."""
        return context_of_run(stored, execution_id, run) if stored is not None or self._is_tracing else None

    # -- runs -------------------------------------------------------------------------------------------

    def adopted(self, run: HotRun, claim: Claim) -> None:
        """Tell of a run that has come into memory."""
        if not self.is_on:
            return
        instance = claim.instance
        now = self._clock.now()
        # A build that could not go on with the very first turn has undone it.
        has_begun = not claim.is_first and not (instance.build is not None and instance.next_seq == 0)
        self._watch(run, ref_of(instance), has_begun=has_begun)
        began = WorkflowBegan(
            stamp=now,
            delay=max(now - (instance.wake_at or now), 0) / MICROSECONDS,
            recoveries=instance.recoveries,
        )
        self._observers.tell("workflow_started" if claim.is_first else "workflow_resumed", run.ref, began)

    def recurred(self, run: HotRun, stamp: int) -> None:
        """Tell of the next run of an instance, which goes on in memory."""
        old = run.ref
        if old is None:
            return
        self._observers.tell("workflow_recurred", old, WorkflowEnded(stamp=stamp, status="recurred"))
        workflow = run.execution.workflow
        ref = replace(
            old,
            workflow=workflow.name,
            version=workflow.version,
            run=run.run,
            trace=context_of_run(run.trace_context, run.execution_id, run.run),
            previous=old.trace,
            started_stamp=stamp,
        )
        self._watch(run, ref)
        self._observers.tell("workflow_started", ref, WorkflowBegan(stamp=stamp))

    def _watch(self, run: HotRun, ref: RunRef, *, has_begun: bool = False) -> None:
        run.ref = ref
        run.execution.observer = Observer(run.execution, ref.trace, has_replays=self._has_replays, has_begun=has_begun)

    def suspended(self, run: HotRun, reason: Leaving) -> None:
        """Tell of a run that has left memory."""
        if run.ref is not None:
            event = WorkflowSuspended(stamp=self._clock.now(), reason=reason)
            self._observers.tell("workflow_suspended", run.ref, event)

    def ended(self, run: HotRun, status: Status, stamp: int, payload: bytes | None) -> None:
        """Tell of a run that has ended, or is blocked; ``payload`` is its last event's, or why it is blocked."""
        if run.ref is None:
            return
        failure = None if status is Status.COMPLETED or payload is None else decode_failure(payload)
        name = status.name.lower()
        event = WorkflowEnded(stamp=stamp, status=name, failure=failure)
        self._observers.tell(f"workflow_{name}", run.ref, event)

    def terminated(self, run: RunRef, event: WorkflowEnded) -> None:
        """Tell of an instance that the end of another has ended."""
        self._observers.tell("workflow_terminated", run, event)

    # -- turns ------------------------------------------------------------------------------------------

    def committed(self, run: HotRun) -> None:
        """Tell of what a turn has done; its commit is acknowledged."""
        observer = run.execution.observer
        if observer is not None and observer.told:
            for method, event in observer.take():
                self._observers.tell(method, run.ref, event)

    def loading(self, run: HotRun, events: int) -> None:
        """Tell of a replay that begins."""
        if run.ref is not None:
            self._observers.tell("replay_started", run.ref, ReplayEvent(stamp=self._clock.now(), events=events))

    def loaded(self, run: HotRun, events: int, seconds: float) -> None:
        """Tell of a replay that is over, and of what it has gone through."""
        observer = run.execution.observer
        if observer is None:
            return
        for method, event in observer.take():
            self._observers.tell(method, run.ref, event)
            if method in _OUTCOMES:
                self._observers.tell("activity_cache_hit", run.ref, replace(event, is_replayed=False))
        over = ReplayEvent(stamp=self._clock.now(), events=events, seconds=seconds)
        self._observers.tell("replay_completed", run.ref, over)

    def recorded(self, run: HotRun, notes: Iterable[Note | Event]) -> None:
        """Note what is recorded, or about to be, without its turn; `committed` must follow."""
        if run.execution.observer is not None:
            run.execution.observer.recorded(notes)

    def blocked(self, run: HotRun, failure: Failure, notes: Iterable[Note]) -> None:
        """Note that a run is to be blocked, and which results are kept; tell of it if the code did not fit."""
        if run.execution.observer is not None:
            run.execution.observer.blocked(notes)
        if run.ref is not None and failure.type == _NONDETERMINISM:
            event = Nondeterminism(stamp=self._clock.now(), failure=failure)
            self._observers.tell("nondeterminism", run.ref, event)

    # -- bodies -----------------------------------------------------------------------------------------

    def body_begins(self, body: Body) -> None:
        """Tell of an attempt that begins, and make its activity's span the current one of its task."""
        run, command = body.run, body.command
        if run.ref is None:
            return
        if self._is_tracing:
            self._observers.enter(run.ref.trace.child(command.activity_id))
        is_undoing = is_compensation(command.call)
        method = "compensation_started" if is_undoing else "activity_started"
        if not self._observers.wants(method):
            return
        now = self._clock.now()
        event = ActivityEvent(
            stamp=now,
            activity_id=command.activity_id,
            name=command.call.name,
            attempt=command.attempt,
            scheduled_stamp=command.scheduled_at,
            is_compensation=is_undoing,
            delay=max(now - max(command.scheduled_at, command.not_before), 0) / MICROSECONDS,
        )
        self._observers.tell(method, run.ref, event)

    # -- the worker -------------------------------------------------------------------------------------

    def session_lost(self, runs: int) -> None:
        """Tell of a session that is lost."""
        if self.is_on:
            self._observers.tell_of_worker("session_lost", SessionLost(stamp=self._clock.now(), runs=runs))

    def batch_committed(self, entries: int, seconds: float) -> None:
        """Tell of a group commit."""
        if self.is_on:
            event = BatchCommitted(stamp=self._clock.now(), entries=entries, seconds=seconds)
            self._observers.tell_of_worker("batch_committed", event)

    def counted(self, hot: int, found: OpenCounts | None) -> None:
        """Tell how many instances there are; ``found`` is what the database holds, None: another worker asks it."""
        now = self._clock.now()
        if found is None:
            event = InstanceCounts(stamp=now, hot=hot)
        else:
            by_status = {status.name.lower(): count for status, count in found.by_status.items()}
            event = InstanceCounts(stamp=now, hot=hot, cold=found.cold, by_status=by_status)
        self._observers.tell_of_worker("instances_counted", event)

    def wants(self, method: str) -> bool:
        """Tell whether anybody is to be told of something."""
        return self._observers.wants(method)
