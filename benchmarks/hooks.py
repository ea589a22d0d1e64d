"""What being watched costs: the rate of `throughput.py` with no hooks, with empty ones, and with OpenTelemetry."""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Callable, Sequence

from databases import KINDS, databases
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from throughput import measure

from romancy import Hooks
from romancy.telemetry import OpenTelemetry


class Discarding(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - it keeps nothing
        return SpanExportResult.SUCCESS


class Empty(Hooks):
    """Be told of everything, and do nothing."""


for _name, _method in list(vars(Hooks).items()):
    if callable(_method) and not _name.startswith("_"):
        setattr(Empty, _name, lambda *_: None)


def opentelemetry(ratio: float) -> OpenTelemetry:
    """Return hooks of the SDK that sample some of the traces, and export nothing."""
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)))
    provider.add_span_processor(BatchSpanProcessor(Discarding()))
    return OpenTelemetry(tracer_provider=provider, meter_provider=MeterProvider([InMemoryMetricReader()]))


CASES: dict[str, Callable[[], list[Hooks]]] = {
    "no hooks": list,
    "empty hooks": lambda: [Empty()],
    "OpenTelemetry, 1 % of traces": lambda: [opentelemetry(0.01)],
    "OpenTelemetry, all traces": lambda: [opentelemetry(1.0)],
}


def main() -> None:
    """Measure the cases in turn, a few rounds, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--in-flight", type=int, default=200)
    parser.add_argument("--on", nargs="*", choices=KINDS, default=["sqlite"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for kind in args.on:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
        with databases(kind) as made:
            for _ in range(args.rounds):
                for name, make in CASES.items():
                    one = asyncio.run(measure(made.url(), args.runs, args.in_flight, hooks=make()))
                    found[name].append(one)
        alone = statistics.median(one["activities/s"] for one in found["no hooks"])
        for name, each in found.items():
            rate = statistics.median(one["activities/s"] for one in each)
            cpu = statistics.median(one["CPU s per 1,000"] for one in each) * 1_000
            print(f"{kind}, {name}: {rate:,.0f} activities/s ({rate / alone:.2f}), {cpu:,.0f} µs CPU an activity")


if __name__ == "__main__":
    main()
