"""Start an order in a traced request and hang in its last activity; or finish what an earlier process has left."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from romancy import App, Channel, RetryPolicy, activity, activity_info, workflow
from romancy.telemetry import OpenTelemetry

database, exported, mode = sys.argv[1:]
words: Channel[str] = Channel("traced.words", str)


class FileExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with Path(exported).open("a") as file:
            for span in spans:
                context = span.get_span_context()
                assert context is not None
                told = {
                    "name": span.name,
                    "trace": f"{context.trace_id:032x}",
                    "span": f"{context.span_id:016x}",
                    "parent": span.parent and f"{span.parent.span_id:016x}",
                    "links": [f"{link.context.span_id:016x}" for link in span.links],
                    "events": [event.name for event in span.events],
                    "id": (span.attributes or {}).get("romancy.activity.id"),
                }
                file.write(json.dumps(told) + "\n")
        return SpanExportResult.SUCCESS


@activity(name="traced_act", retry=RetryPolicy(initial_interval=timedelta(milliseconds=1)))
async def act(name: str) -> str:
    if name == "last" and mode == "start":
        if activity_info().attempt == 1:
            raise RuntimeError("once")
        print("in the last activity", flush=True)
        await asyncio.sleep(600)
    return name


@workflow(name="traced_child")
async def child() -> str:
    return await act("child")


@workflow(name="traced_order")
async def order() -> str:
    await act("first")
    await words.receive()
    await act("last")
    await child()
    return await act("after")


async def main() -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(FileExporter()))
    tracer = provider.get_tracer("test")
    async with App(f"sqlite:///{database}", hooks=[OpenTelemetry(tracer_provider=provider)]) as app:
        if mode == "start":
            with tracer.start_as_current_span("request"):
                await app.start(order(), id="one")
            with tracer.start_as_current_span("request"):
                await app.send(words, "go", to="one")
            await asyncio.sleep(600)
        await (await app.get("one")).result()
    print("done", flush=True)


asyncio.run(main())
