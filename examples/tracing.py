"""OpenTelemetry: one trace from a request through the workflow, its activities and its child.

Run it: python examples/tracing.py
"""

from __future__ import annotations

import asyncio

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from romancy import App, activity, workflow
from romancy.telemetry import OpenTelemetry

exported = InMemorySpanExporter()  # yours is an OTLP exporter
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exported))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")


@activity
async def charge(amount: int) -> int:
    with tracer.start_as_current_span("call the bank"):
        return amount


@workflow
async def ship(item: str) -> str:
    return f"{item} is on its way"


@workflow
async def order(item: str) -> str:
    await charge(300)
    return await ship(item)


async def main() -> None:
    async with App("sqlite://", hooks=[OpenTelemetry()]) as app:
        with tracer.start_as_current_span("POST /orders"):
            await app.run(order("a flute"))
    spans = exported.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans}
    for span in sorted(spans, key=lambda span: span.name):
        above = names[span.parent.span_id] if span.parent else "nothing"
        print(f"{span.name!r} is below {above!r}")
    print("traces:", len({span.context.trace_id for span in spans}))


if __name__ == "__main__":
    asyncio.run(main())
