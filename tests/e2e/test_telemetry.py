"""Traces and metrics, by the SDK's in-memory exporters and across a kill."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from romancy import (
    App,
    Channel,
    Hooks,
    RetryPolicy,
    WorkflowFailedError,
    activity,
    recur,
    workflow,
)
from romancy.client.client import Client
from romancy.core.tracing import TraceContext
from romancy.telemetry import OpenTelemetry

from .conftest import MakeApp
from .processes import running

pytestmark = pytest.mark.anyio

words: Channel[str] = Channel("telemetry.words", str)
news: Channel[str] = Channel("telemetry.news", str)
failures: list[Exception] = []
seen: list[tuple[str, str]] = []
providers: list[TracerProvider] = []


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    failures.clear()
    seen.clear()


class Telemetry:
    """OpenTelemetry's SDK with exporters in memory, and hooks that use it."""

    def __init__(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **settings)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.hooks = OpenTelemetry(tracer_provider=self.provider, meter_provider=self.meters)

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if name in span.name]

    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans())

    def metric(self, name: str, *by: str) -> dict[tuple[object, ...], Any]:
        """Return a metric's values by attributes: a sum, or a histogram's count."""
        found: dict[tuple[object, ...], Any] = defaultdict(int)
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points if metric.name == name else ():
                        key = tuple((point.attributes or {}).get(attribute) for attribute in by)
                        found[key] += getattr(point, "value", None) or getattr(point, "count", 0)
        return dict(found)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@activity(name="telemetry_act", retry=RetryPolicy(initial_interval=timedelta(milliseconds=1), max_attempts=3))
async def act(name: str) -> str:
    here = trace.get_current_span().get_span_context()
    seen.append((name, f"{here.trace_id:032x}-{here.span_id:016x}"))
    if failures:
        raise failures.pop(0)
    return str(baggage.get_baggage("user") or name)


@activity(name="telemetry_sync")
def in_thread(name: str) -> str:
    here = trace.get_current_span().get_span_context()
    seen.append((name, f"{here.trace_id:032x}-{here.span_id:016x}"))
    return name


@activity(name="telemetry_reserve")
async def reserve(name: str) -> str:
    return name


@reserve.compensation(name="telemetry_release")
async def release(result: str, name: str) -> None:
    here = trace.get_current_span().get_span_context()
    seen.append((name, f"{here.trace_id:032x}-{here.span_id:016x}"))


@workflow(name="telemetry_child")
async def child(name: str) -> str:
    return await act(name)


@workflow(name="telemetry_order")
async def order(name: str) -> str:
    first = await act(name)
    word = await words.receive()
    return first + word + await child("child") + await in_thread("sync")


@workflow(name="telemetry_listens")
async def listens() -> str:
    async with news.subscribe() as subscription:
        message = await subscription.receive_message()
        return f"{message.value} {message.headers['traceparent'][3:35]}"


@workflow(name="telemetry_says")
async def says(to: str) -> None:
    await words.send("said", to=to)


@workflow(name="telemetry_fails")
async def fails() -> None:
    await reserve("room")
    await act("bad")


@workflow(name="telemetry_counts")
async def counts(left: int) -> None:
    await act(str(left))
    if left:
        recur(counts(left - 1))


def place(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}-{context.span_id:016x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"


async def parked(app: App | Client, id: str) -> None:
    while not (await (await app.get(id)).info()).waiting_on:
        await asyncio.sleep(0.002)


async def test_trace_of_a_request_goes_on_through_start_activities_children_and_messages(
    make_app: MakeApp, telemetry: Telemetry
) -> None:
    async with make_app(hooks=[telemetry.hooks]) as app:
        with telemetry.tracer.start_as_current_span("request") as request:
            handle = await app.start(order("a"), id="one")
        await parked(app, "one")
        with telemetry.tracer.start_as_current_span("webhook") as webhook:
            await app.send(words, "w", to="one")
        assert await handle.result() == "awchildsync"
    assert telemetry.names() == [
        *("activity telemetry_act", "activity telemetry_act", "activity telemetry_sync"),
        *("request", "run telemetry_child", "run telemetry_order", "webhook"),
    ]
    (run,) = telemetry.spans("run telemetry_order")
    (kid,) = telemetry.spans("run telemetry_child")
    first, second = telemetry.spans("activity telemetry_act")
    (threaded,) = telemetry.spans("activity telemetry_sync")
    assert isinstance(request, ReadableSpan)
    assert isinstance(webhook, ReadableSpan)
    assert parent_of(run) == place(request)
    assert parent_of(first) == parent_of(threaded) == parent_of(kid) == place(run)
    assert parent_of(second) == place(kid)
    assert [(link.context.trace_id, link.context.span_id) for link in run.links] == [
        (webhook.get_span_context().trace_id, webhook.get_span_context().span_id)
    ]
    assert seen == [("a", place(first)), ("child", place(second)), ("sync", place(threaded))]
    assert run.start_time is not None
    assert run.end_time is not None
    for span in (first, threaded, kid):
        assert span.start_time is not None
        assert span.end_time is not None
        assert run.start_time <= span.start_time <= span.end_time <= run.end_time
    assert run.attributes is not None
    assert run.attributes["romancy.instance.id"] == "one"
    assert run.attributes["romancy.run.status"] == "completed"
    assert [event.name for event in run.events] == ["message received"]


async def test_message_of_a_workflow_links_to_its_run(make_app: MakeApp, telemetry: Telemetry) -> None:
    async with make_app(hooks=[telemetry.hooks]) as app:
        handle = await app.start(order("a"), id="one")
        await app.run(says("one"), id="two")
        await handle.result()
    (run,) = telemetry.spans("run telemetry_order")
    (sender,) = telemetry.spans("run telemetry_says")
    assert [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in run.links] == [place(sender)]
    assert place(run)[:32] != place(sender)[:32]
    assert parent_of(run) is None


async def test_failed_attempts_are_events_of_one_span(make_app: MakeApp, telemetry: Telemetry) -> None:
    failures.extend([RuntimeError("one"), RuntimeError("two")])
    async with make_app(hooks=[telemetry.hooks]) as app:
        await app.run(child("a"))
    (span,) = telemetry.spans("activity")
    assert [event.name for event in span.events] == [
        *("attempt failed", "attempt failed"),
        "attempt started",
    ]
    failed = [event.attributes for event in span.events if event.name == "attempt failed"]
    assert [(each or {})["exception.message"] for each in failed] == ["one", "two"]
    assert (span.attributes or {})["romancy.activity.attempts"] == 3
    assert span.status.status_code is StatusCode.UNSET
    assert telemetry.metric("romancy.activity.retried") == {(): 2}
    assert len({where for _, where in seen}) == 1


async def test_failed_run_and_its_compensation(make_app: MakeApp, telemetry: Telemetry) -> None:
    failures.extend([RuntimeError("no")] * 3)
    async with make_app(hooks=[telemetry.hooks]) as app:
        with pytest.raises(WorkflowFailedError):
            await app.run(fails())
    assert telemetry.names() == [
        *("activity telemetry_act", "activity telemetry_reserve"),
        *("compensation telemetry_release", "run telemetry_fails"),
    ]
    (run,) = telemetry.spans("run")
    (undone,) = telemetry.spans("compensation")
    assert run.status.status_code is StatusCode.ERROR
    assert (run.attributes or {})["error.type"] == "RuntimeError"
    assert parent_of(undone) == place(run)
    assert seen[-1] == ("room", place(undone))


async def test_each_run_of_an_instance_is_a_trace_that_links_to_the_one_before(
    make_app: MakeApp, telemetry: Telemetry
) -> None:
    async with make_app(hooks=[telemetry.hooks]) as app:
        await app.run(counts(2))
    runs = telemetry.spans("run")
    assert [(run.attributes or {})["romancy.run.number"] for run in runs] == [0, 1, 2]
    assert len({place(run)[:32] for run in runs}) == 3
    for before, after in pairwise(runs):
        assert [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in after.links] == [place(before)]


async def test_baggage_reaches_activities(telemetry: Telemetry) -> None:
    async with App("sqlite://", hooks=[telemetry.hooks]) as app:
        token = otel_context.attach(baggage.set_baggage("user", "seven"))
        try:
            with telemetry.tracer.start_as_current_span("request"):
                assert await app.run(child("a")) == "seven"
        finally:
            otel_context.detach(token)
        assert await app.run(child("a")) == "a"


async def test_nothing_is_recorded_of_what_is_not_sampled() -> None:
    off = Telemetry(sampler=ParentBased(ALWAYS_OFF))
    async with App("sqlite://", hooks=[off.hooks]) as app:
        await app.run(child("a"))
    assert off.names() == []
    some = Telemetry(sampler=ParentBased(TraceIdRatioBased(0.5)))
    async with App("sqlite://", hooks=[some.hooks]) as app:
        for number in range(40):
            await app.run(child(str(number)))
    kept = Counter(place(span)[:32] for span in some.spans())
    assert set(kept.values()) == {2}
    assert 0 < len(kept) < 40


async def test_without_the_sdk_nothing_is_recorded_and_everything_works() -> None:
    async with App("sqlite://", hooks=[OpenTelemetry(tracer_provider=trace.NoOpTracerProvider())]) as app:
        assert await app.run(child("a")) == "a"


def test_provider_may_be_set_after_the_hooks_were_made() -> None:
    program = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from romancy import App, workflow
from romancy.telemetry import OpenTelemetry

@workflow
async def nothing():
    pass

async def main():
    exporter = InMemorySpanExporter()
    async with App("sqlite://", hooks=[OpenTelemetry()]) as app:
        await app.run(nothing())
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        await app.run(nothing())
    print([span.name for span in exporter.get_finished_spans()])

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "['run nothing']\n")


async def test_instance_started_without_telemetry_has_a_trace(database: str, telemetry: Telemetry) -> None:
    async with App(database, worker=False) as client:
        await client.start(child("a"), id="one")
    async with App(database, hooks=[telemetry.hooks]) as app:
        await (await app.get("one")).result()
    (run,) = telemetry.spans("run")
    (body,) = telemetry.spans("activity")
    assert (parent_of(run), parent_of(body)) == (None, place(run))


async def test_two_apps_with_telemetry_on_one_provider(telemetry: Telemetry) -> None:
    other = OpenTelemetry(tracer_provider=telemetry.provider, meter_provider=telemetry.meters)
    async with App("sqlite://", hooks=[telemetry.hooks]) as one, App("sqlite://", hooks=[other]) as two:
        await asyncio.gather(*(app.run(child(str(number))) for number in range(50) for app in (one, two)))
    runs, bodies = telemetry.spans("run"), telemetry.spans("activity")
    assert len(runs) == len(bodies) == len({place(span) for span in runs}) == 100
    assert sorted(map(place, runs)) == sorted(str(parent_of(body)) for body in bodies)


async def test_metrics_add_up_to_what_the_database_says(
    make_app: MakeApp, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("romancy.worker.reports._COUNTING_PAUSE", 0.01)
    async with make_app(hooks=[telemetry.hooks]) as app:
        handles = [await app.start(order(str(number)), id=f"order-{number}") for number in range(10)]
        for number in range(10):
            await parked(app, f"order-{number}")
        await asyncio.sleep(0.1)
        await app.hooks_told()
        (hot,) = telemetry.metric("romancy.run.hot").values()
        (cold,) = telemetry.metric("romancy.run.cold").values()
        assert (hot + cold, {hot, cold}) == (10, {0, 10})
        assert telemetry.metric("romancy.instance.open", "romancy.run.status") == {("running",): 10}
        for number in range(0, 10, 2):
            await app.send(words, "w", to=f"order-{number}")
        for handle in handles[::2]:
            await handle.result()
        failures.extend([RuntimeError("no")] * 3)
        with pytest.raises(WorkflowFailedError):
            await app.run(fails())
        await handles[1].cancel()
        await handles[3].terminate()
        await asyncio.gather(*(h.result() for h in (handles[1], handles[3])), return_exceptions=True)
        await asyncio.sleep(0.1)
        await app.hooks_told()
        rows = await app.list(limit=1000)
        statuses = Counter(row.status for row in rows if row.status != "running")
        found = telemetry.metric("romancy.run.ended", "romancy.run.status")
        assert {str(status): count for (status,), count in found.items()} == statuses
        assert telemetry.metric("romancy.run.started") == {(): len(rows)}
        assert telemetry.metric("romancy.run.duration") == {(): sum(statuses.values())}
        assert telemetry.metric("romancy.instance.open", "romancy.run.status") == {("running",): 3}
        histories = [await (await app.get(row.id)).history() for row in rows]
        events = Counter(event.kind for history in histories for event in history)
        outcomes = telemetry.metric("romancy.activity.ended", "romancy.activity.outcome")
        assert outcomes == {
            ("completed",): events["activity_completed"],
            ("failed",): events["activity_failed"],
        }
        assert telemetry.metric("romancy.message.sent") == telemetry.metric("romancy.message.received") == {(): 5}
        assert app.worker is not None
        batches, _ = app.worker.commits
        assert telemetry.metric("romancy.commit.duration") == {(): batches}
        assert telemetry.metric("romancy.commit.batch.size") == {(): batches}
        activities = sum(outcomes.values())
        assert len(telemetry.spans("activity")) + len(telemetry.spans("compensation")) == activities


async def test_closed_app_holds_nothing(telemetry: Telemetry) -> None:
    async with App("sqlite://", hooks=[telemetry.hooks]) as app:
        await app.start(order("a"), id="one")
        await parked(app, "one")
    assert telemetry.metric("romancy.run.hot") == {(): 0}
    assert telemetry.metric("romancy.run.cold") == {}


async def test_published_message_links_its_receiver_to_its_sender(make_app: MakeApp, telemetry: Telemetry) -> None:
    async with make_app(hooks=[telemetry.hooks]) as app:
        handle = await app.start(listens(), id="one")
        await parked(app, "one")
        with telemetry.tracer.start_as_current_span("announcement") as span:
            await app.publish(news, "word")
        assert await handle.result() == f"word {f'{span.get_span_context().trace_id:032x}'}"
    (run,) = telemetry.spans("run")
    (link,) = run.links
    assert (link.context.trace_id, link.context.span_id) == (
        span.get_span_context().trace_id,
        span.get_span_context().span_id,
    )


async def test_author_s_own_trace_headers_come_first(make_app: MakeApp, telemetry: Telemetry) -> None:
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with make_app(hooks=[telemetry.hooks]) as app:
        handle = await app.start(order("a"), id="one")
        with telemetry.tracer.start_as_current_span("webhook"):
            await app.send(words, "w", to="one", headers={"traceparent": own})
        await handle.result()
    (run,) = telemetry.spans("run telemetry_order")
    assert [f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" for link in run.links] == [own]


class Broken:
    """A propagator that raises whatever it is asked."""

    def current(self) -> TraceContext | None:
        raise RuntimeError("current")

    def begin(self, parent: TraceContext | None, execution_id: int) -> TraceContext:
        raise RuntimeError("begin")

    def enter(self, context: TraceContext) -> None:
        raise RuntimeError("enter")


async def test_propagator_that_raises_changes_nothing(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    class Watch(Hooks):
        propagator = Broken()

    async with make_app(hooks=[Watch()]) as app:
        handle = await app.start(order("a"), id="one")
        await app.send(words, "w", to="one")
        assert await handle.result() == "awchildsync"
    logged = {str(record.exc_info[1]) for record in caplog.records if record.exc_info}
    assert logged == {"current", "begin", "enter"}


async def test_one_trace_per_run_across_a_kill(tmp_path: Path) -> None:
    database, spans = tmp_path / "test.db", tmp_path / "spans"
    async with running("traced.py", database, spans, "start") as first:
        await first.expect("in the last activity")
        first.signal(signal.SIGKILL)
    exported = [json.loads(line) for line in spans.read_text().splitlines()]
    assert Counter(span["name"] for span in exported) == {"request": 2, "activity traced_act": 1}
    async with running("traced.py", database, spans, "finish") as second:
        await second.expect("done")
        assert await second.end() == 0, second.errors
    exported = [json.loads(line) for line in spans.read_text().splitlines()]
    by_name: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for span in exported:
        by_name[span["name"]].append(span)
    assert {name: len(found) for name, found in by_name.items()} == {
        "request": 2,
        "activity traced_act": 4,
        "run traced_order": 1,
        "run traced_child": 1,
    }
    start, send = by_name["request"]
    (run,) = by_name["run traced_order"]
    (kid,) = by_name["run traced_child"]
    assert {span["trace"] for span in exported} == {start["trace"], send["trace"]}
    assert (run["parent"], run["links"]) == (start["span"], [send["span"]])
    assert kid["parent"] == run["span"]
    assert Counter(span["parent"] for span in by_name["activity traced_act"]) == {run["span"]: 3, kid["span"]: 1}
    assert len({span["span"] for span in exported}) == len(exported)
    (last,) = (span for span in by_name["activity traced_act"] if span["id"] == "3:traced_act")
    # The attempt that failed before the kill is known from the history; that which was cut short left no trace.
    assert last["events"] == ["attempt failed", "attempt started"]
