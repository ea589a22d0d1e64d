"""Hooks that make spans and metrics of what happens."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace

from romancy.core.clock import MICROSECONDS
from romancy.core.hooks import Hooks
from romancy.core.tracing import context_in
from romancy.telemetry.metrics import Instruments
from romancy.telemetry.propagation import OtelPropagator
from romancy.telemetry.spans import Recorder, SpanEvent, about_failure, link_to, type_of

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Link, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from romancy.core.hooks import (
        ActivityEvent,
        BatchCommitted,
        InstanceCounts,
        MessageEvent,
        Nondeterminism,
        ReplayEvent,
        RunRef,
        SessionLost,
        WorkflowBegan,
        WorkflowEnded,
        WorkflowSuspended,
    )

_LINK_LIMIT = 128
"""Of a span: the SDK's own default limit."""
_BEGAN = "attempt started"
_ERRORS = frozenset({"failed", "timed_out"})


class _Run:
    """What is known of a run in memory that its span, or that of an activity, will tell."""

    __slots__ = ("attempts", "events", "links")

    def __init__(self) -> None:
        self.events: list[SpanEvent] = []
        self.links: list[Link] = []
        self.attempts: dict[str, list[SpanEvent]] = {}


class OpenTelemetry(Hooks):
    """Traces and metrics by OpenTelemetry: ``App(url, hooks=[OpenTelemetry()])``.

    A run is one span, from its begin to its end, recorded by whoever ends it; its ids are known from its start on and
    stored with it, so that everything below and beyond refers to it. An activity is one span below it, recorded with
    its outcome; its attempts are events of that span. While a body runs, its activity's span is the current one. What
    is started or sent from where a span is current goes on in its trace: an instance as a child, a message as a link.
    A span is recorded once, after what it tells of is committed; it is lost if the process dies in between.
    """

    replays = True

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        """Take the global providers, or others. Those of the SDK make spans; without it nothing is recorded."""
        release = version("romancy")
        self._recorder = Recorder(partial(trace.get_tracer, "romancy", release, tracer_provider))
        self._instruments = Instruments(metrics.get_meter("romancy", release, meter_provider))
        self._runs: dict[tuple[str, int], _Run] = {}
        self.propagator = OtelPropagator(self._recorder.is_sampled)

    def _run(self, run: RunRef) -> _Run:
        key = (run.execution_id, run.run)
        found = self._runs.get(key)
        if found is None:
            found = self._runs[key] = _Run()
        return found

    # -- runs -------------------------------------------------------------------------------------------

    def workflow_started(self, run: RunRef, event: WorkflowBegan) -> None:
        """Begin to collect what the run's span will tell."""
        self._instruments.runs_started.add(1, _name(run))
        self._instruments.run_delay.record(event.delay, _name(run))

    def workflow_resumed(self, run: RunRef, event: WorkflowBegan) -> None:
        """Measure how long the run had to wait."""
        self._instruments.run_delay.record(event.delay, _name(run))

    def workflow_suspended(self, run: RunRef, event: WorkflowSuspended) -> None:
        """Forget what its replay will tell again."""
        self._runs.pop((run.execution_id, run.run), None)

    def workflow_blocked(self, run: RunRef, event: WorkflowEnded) -> None:
        """Count it; the span goes on."""
        self._runs.pop((run.execution_id, run.run), None)
        self._instruments.runs_blocked.add(1, _name(run))

    def workflow_completed(self, run: RunRef, event: WorkflowEnded) -> None:
        """Record the run's span, however it has ended; one that was opened by recur links to the run before."""
        known = self._runs.pop((run.execution_id, run.run), None) or _Run()
        begin = run.created_stamp if run.started_stamp is None else run.started_stamp
        status = {**_name(run), "romancy.run.status": event.status}
        if event.failure is not None:
            status["error.type"] = type_of(event.failure)
        self._instruments.runs_ended.add(1, status)
        self._instruments.run_duration.record(max(event.stamp - begin, 0) / MICROSECONDS, status)
        self._recorder.record(
            run.trace,
            f"run {run.workflow}",
            begin=begin,
            end=event.stamp,
            attributes={**_of_run(run), "romancy.run.status": event.status},
            events=known.events,
            links=[*([] if run.previous is None else [link_to(run.previous, {})]), *known.links],
            failure=event.failure,
            is_error=event.status in _ERRORS,
        )

    workflow_recurred = workflow_failed = workflow_cancelled = workflow_completed
    workflow_terminated = workflow_timed_out = workflow_completed

    # -- activities -------------------------------------------------------------------------------------

    def activity_started(self, run: RunRef, event: ActivityEvent) -> None:
        """Note an attempt: the latest, since a replay does not tell of the begins of those before."""
        attributes = _names(run, event)
        self._instruments.activities_started.add(1, attributes)
        self._instruments.activity_delay.record(event.delay, attributes)
        if not run.trace.is_sampled:
            return
        began = SpanEvent(_BEGAN, event.stamp, {"romancy.activity.attempt": event.attempt})
        attempts = self._run(run).attempts
        attempts[event.activity_id] = [*(e for e in attempts.get(event.activity_id, ()) if e.name != _BEGAN), began]

    compensation_started = activity_started

    def activity_retried(self, run: RunRef, event: ActivityEvent) -> None:
        """Note a failed attempt; one of which only a replay tells, too."""
        if not event.is_replayed:
            self._instruments.attempts_failed.add(1, _names(run, event))
        if not run.trace.is_sampled:
            return
        about: dict[str, AttributeValue] = {"romancy.activity.attempt": event.attempt}
        if event.failure is not None:
            about |= about_failure(event.failure)
        failed = SpanEvent("attempt failed", event.stamp, about)
        self._run(run).attempts.setdefault(event.activity_id, []).append(failed)

    def activity_completed(self, run: RunRef, event: ActivityEvent) -> None:
        """Record the activity's span."""
        self._end_activity(run, event, "completed")

    compensation_completed = activity_completed

    def activity_failed(self, run: RunRef, event: ActivityEvent) -> None:
        """Record the activity's span."""
        self._end_activity(run, event, "failed")

    compensation_failed = activity_failed

    def activity_cancelled(self, run: RunRef, event: ActivityEvent) -> None:
        """Record the activity's span."""
        self._end_activity(run, event, "cancelled")

    def _end_activity(self, run: RunRef, event: ActivityEvent, outcome: str) -> None:
        known = self._runs.get((run.execution_id, run.run))
        attempts = () if known is None else known.attempts.pop(event.activity_id, ())
        if event.is_replayed:
            return
        attributes = {**_names(run, event), "romancy.activity.outcome": outcome}
        if event.failure is not None:
            attributes["error.type"] = type_of(event.failure)
        self._instruments.activities_ended.add(1, attributes)
        seconds = max(event.stamp - event.scheduled_stamp, 0) / MICROSECONDS
        self._instruments.activity_duration.record(seconds, attributes)
        if not run.trace.is_sampled:
            return
        # What else is known of the run is told by its own span, which is in the same trace.
        about: dict[str, AttributeValue] = {
            **_names(run, event),
            "romancy.instance.id": run.instance_id,
            "romancy.activity.id": event.activity_id,
            "romancy.activity.outcome": outcome,
            "romancy.activity.attempts": event.attempt,
        }
        self._recorder.record(
            event.trace_in(run),
            f"{'compensation' if event.is_compensation else 'activity'} {event.name}",
            begin=event.scheduled_stamp,
            end=event.stamp,
            attributes=about,
            events=attempts,
            failure=event.failure,
            is_error=outcome == "failed",
        )

    # -- messages ---------------------------------------------------------------------------------------

    def message_sent(self, run: RunRef | None, event: MessageEvent) -> None:
        """Count it."""
        if not event.is_replayed:
            self._instruments.messages_sent.add(1, {"messaging.destination.name": event.channel})

    def message_received(self, run: RunRef, event: MessageEvent) -> None:
        """Note it, and link to where it was sent."""
        if not event.is_replayed:
            self._instruments.messages_received.add(1, {"messaging.destination.name": event.channel})
        if not run.trace.is_sampled:
            return
        about: dict[str, AttributeValue] = {
            "messaging.message.id": event.message_id,
            "messaging.destination.name": event.channel,
        }
        known = self._run(run)
        known.events.append(SpanEvent("message received", event.stamp, about))
        del known.events[:-_LINK_LIMIT]
        sender = context_in(event.headers)
        if sender is not None and len(known.links) < _LINK_LIMIT:
            known.links.append(link_to(sender, about))

    # -- replay and the worker --------------------------------------------------------------------------

    def replay_completed(self, run: RunRef, event: ReplayEvent) -> None:
        """Measure it."""
        self._instruments.replay_events.add(event.events, _name(run))
        self._instruments.replays.record(event.seconds, _name(run))

    def nondeterminism(self, run: RunRef, event: Nondeterminism) -> None:
        """Count it."""
        self._instruments.nondeterminism.add(1, _name(run))

    def session_lost(self, event: SessionLost) -> None:
        """Count it."""
        self._instruments.sessions_lost.add(1, {})

    def batch_committed(self, event: BatchCommitted) -> None:
        """Measure it."""
        self._instruments.batch_size.record(event.entries)
        self._instruments.commit_duration.record(event.seconds)

    def instances_counted(self, event: InstanceCounts) -> None:
        """Keep it for whoever reads the metrics next."""
        self._instruments.counted(event)


def _name(run: RunRef) -> dict[str, str]:
    """Return what metrics of runs are told apart by."""
    return {"romancy.workflow.name": run.workflow}


def _names(run: RunRef, event: ActivityEvent) -> dict[str, str]:
    """Return what metrics of activities are told apart by."""
    return {"romancy.workflow.name": run.workflow, "romancy.activity.name": event.name}


def _of_run(run: RunRef) -> dict[str, AttributeValue]:
    return {
        "romancy.workflow.name": run.workflow,
        "romancy.workflow.version": run.version,
        "romancy.instance.id": run.instance_id,
        "romancy.execution.id": run.execution_id,
        "romancy.run.number": run.run,
    }
