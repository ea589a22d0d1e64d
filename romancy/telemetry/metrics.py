"""The instruments: their names, units, and what is added to them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from opentelemetry.metrics import Histogram, Meter

    from romancy.core.hooks import InstanceCounts

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0, 604_800.0)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)


class Counter:
    """A count by attributes, read when the metrics are: the SDK's own counters cost ten times as much a call."""

    def __init__(self, meter: Meter, name: str, unit: str, description: str) -> None:
        self._totals: dict[tuple[tuple[str, str], ...], int] = {}
        meter.create_observable_counter(name, [self._observe], unit, description)

    def add(self, amount: int, attributes: Mapping[str, str]) -> None:
        """Add to a count; from one thread only."""
        key = tuple(attributes.items())
        self._totals[key] = self._totals.get(key, 0) + amount

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(total, dict(key)) for key, total in list(self._totals.items())]


class Instruments:
    """Everything that is counted and measured. Durations are seconds."""

    def __init__(self, meter: Meter) -> None:
        counter = partial(Counter, meter)

        def histogram(name: str, unit: str, description: str, bounds: Sequence[float]) -> Histogram:
            return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)

        self.runs_started = counter("romancy.run.started", "{run}", "Runs that have begun")
        self.runs_ended = counter("romancy.run.ended", "{run}", "Runs that have ended, by status")
        self.runs_blocked = counter("romancy.run.blocked", "{run}", "Times that a run could not go on")
        self.run_duration = histogram("romancy.run.duration", "s", "From a run's begin to its end", _SECONDS)
        self.run_delay = histogram(
            "romancy.run.queue.duration", "s", "From when an instance was due until a worker had it", _SECONDS
        )
        self.activities_started = counter("romancy.activity.started", "{attempt}", "Attempts that have begun")
        self.activities_ended = counter("romancy.activity.ended", "{activity}", "Activities with an outcome")
        self.attempts_failed = counter("romancy.activity.retried", "{attempt}", "Failed attempts, not the last")
        self.activity_duration = histogram(
            "romancy.activity.duration",
            "s",
            "From when an activity was asked for to its outcome, all attempts",
            _SECONDS,
        )
        self.activity_delay = histogram(
            "romancy.activity.queue.duration", "s", "From when an attempt was due to its begin", _SECONDS
        )
        self.messages_sent = counter("romancy.message.sent", "{message}", "Messages accepted from this process")
        self.messages_received = counter("romancy.message.received", "{message}", "Messages given to workflow code")
        self.replays = histogram("romancy.replay.duration", "s", "Computing of a replay", _COMMIT_SECONDS)
        self.replay_events = counter("romancy.replay.events", "{event}", "Events that replays went through")
        self.nondeterminism = counter("romancy.replay.nondeterminism", "{run}", "Code that did not fit its history")
        self.batch_size = histogram("romancy.commit.batch.size", "{entry}", "Entries of a group commit", _SIZES)
        self.commit_duration = histogram("romancy.commit.duration", "s", "A group commit", _COMMIT_SECONDS)
        self.sessions_lost = counter("romancy.session.lost", "{session}", "Sessions that were lost")
        self._counts: InstanceCounts | None = None
        meter.create_observable_up_down_counter(
            "romancy.run.hot", [self._hot], "{run}", "Runs in this process's memory"
        )
        meter.create_observable_up_down_counter(
            "romancy.run.cold", [self._cold], "{run}", "Runs that have not ended and are in nobody's memory"
        )
        meter.create_observable_up_down_counter(
            "romancy.instance.open", [self._open], "{instance}", "Instances that have not ended, by status"
        )

    def counted(self, counts: InstanceCounts) -> None:
        """Keep the latest counts for whoever reads the metrics next."""
        self._counts = counts

    def _hot(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._counts is not None:
            yield Observation(self._counts.hot)

    def _cold(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._counts is not None and self._counts.cold is not None:
            yield Observation(self._counts.cold)

    def _open(self, _: CallbackOptions) -> Iterable[Observation]:
        if self._counts is not None:
            for status, count in self._counts.by_status.items():
                yield Observation(count, {"romancy.run.status": status})
