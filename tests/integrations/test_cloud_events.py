"""CloudEvents, in every framework: routed, known again, and refused when they are none."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from romancy import App
from romancy.telemetry import OpenTelemetry

from .service import BODY_LIMIT, charged, client_of, make_app
from .test_routes import count, problem

pytestmark = pytest.mark.anyio

PLACED = {"type": "com.example.order.placed", "source": "/shop", "id": "e1"}
ORDER = {"order": {"id": "7", "amount": 30}}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def deliver(
    client: httpx.AsyncClient, attributes: dict[str, Any], data: Any = None, *, mode: str = "binary"
) -> httpx.Response:
    event = CloudEvent({**attributes}, data)
    message = to_binary_event(event) if mode == "binary" else to_structured_event(event)
    headers = {"content-type": "application/json", **message.headers}
    return await client.post("/events", content=message.body, headers=headers)


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_event_starts_a_workflow_once(client: httpx.AsyncClient, app: App, mode: str) -> None:
    for _ in range(3):
        reply = await deliver(client, PLACED, ORDER, mode=mode)
        assert (reply.status_code, reply.content) == (204, b"")
    (info,) = await app.list()
    assert (info.workflow, info.id.startswith("event-")) == ("http_order", True)
    while not charged:
        await asyncio.sleep(0.005)
    assert charged == ["7"]


async def test_events_of_other_sources_or_ids_are_others(client: httpx.AsyncClient, app: App) -> None:
    for attributes in (PLACED, {**PLACED, "id": "e2"}, {**PLACED, "source": "/other"}):
        assert (await deliver(client, attributes, ORDER)).status_code == 204
    assert await count(app) == 3


async def test_same_event_at_the_same_time_starts_once(client: httpx.AsyncClient, app: App) -> None:
    replies = await asyncio.gather(*(deliver(client, PLACED, ORDER) for _ in range(20)))
    assert {reply.status_code for reply in replies} == {204}
    assert await count(app) == 1


async def test_subject_routes_and_names_the_instance(client: httpx.AsyncClient, app: App) -> None:
    placed = {**PLACED, "subject": "order/7"}
    assert (await deliver(client, placed, ORDER)).status_code == 204
    assert (await deliver(client, placed, ORDER)).status_code == 204
    other = await deliver(client, {**placed, "id": "e2"}, ORDER)
    assert problem(other) == (409, "instance-exists")
    approved = {"type": "com.example.approved", "source": "/shop", "id": "a1", "subject": "order/7"}
    for granted in (True, False):
        reply = await deliver(client, approved, {"granted": granted}, mode="structured")
        assert reply.status_code == 204
    result = await (await app.get("order/7")).result(timeout=10)
    assert result == {"paid": 30, "granted": True, "gift": False}


async def test_only_parameter_is_the_data(client: httpx.AsyncClient, app: App) -> None:
    word = {"type": "com.example.word", "source": "/shop", "id": "w"}
    message = to_structured_event(CloudEvent({**word}, "hello"))
    assert (await client.post("/events", content=message.body, headers=message.headers)).status_code == 204
    (info,) = await app.list()
    assert await (await app.get(info.id)).result(timeout=10) == "hello"


async def test_event_is_published(client: httpx.AsyncClient, app: App) -> None:
    await client.post("/flow/workflows/http_watches", params={"id": "one"})
    while not (await (await app.get("one")).info()).waiting_on:
        await asyncio.sleep(0.005)
    price = {"type": "com.example.price.changed", "source": "/shop", "id": "p"}
    assert (await deliver(client, price, "12")).status_code == 204
    assert await (await app.get("one")).result(timeout=10) == 12


BAD: list[tuple[dict[str, Any], tuple[int, str]]] = [
    ({"content": b"{", "headers": {"content-type": "application/cloudevents+json"}}, (400, "malformed-json")),
    ({"content": b"[]", "headers": {"content-type": "application/cloudevents+json"}}, (400, "invalid-event")),
    ({"content": b"{}", "headers": {"content-type": "application/cloudevents+json"}}, (400, "invalid-event")),
    (
        {
            "content": b'{"specversion":"1.0","type":"com.example.word","source":"/s","id":7}',
            "headers": {"content-type": "application/cloudevents+json"},
        },
        (400, "invalid-event"),
    ),
    (
        {
            "content": b'{"specversion":"1.0","type":"com.example.word","source":"/s"}',
            "headers": {"content-type": "application/cloudevents+json"},
        },
        (400, "invalid-event"),
    ),
    (
        {
            "content": b'{"specversion":"7","type":"com.example.word","source":"/s","id":"1","time":"noon"}',
            "headers": {"content-type": "application/cloudevents+json"},
        },
        (400, "invalid-event"),
    ),
    (
        {
            "content": b'{"specversion":"1.0","type":"com.example.word","source":"/s","id":"1","data_base64":"AA=="}',
            "headers": {"content-type": "application/cloudevents+json"},
        },
        (400, "invalid-event"),
    ),
    ({"content": b"[]", "headers": {"content-type": "application/cloudevents-batch+json"}}, (415, "event-format")),
    ({"content": b"x", "headers": {"content-type": "application/cloudevents+avro"}}, (415, "event-format")),
    ({"json": {}}, (400, "invalid-event")),
    ({"content": b"x" * (BODY_LIMIT + 1), "headers": {"content-type": "application/json"}}, (413, "too-large")),
]


@pytest.mark.parametrize(("request_", "expected"), BAD)
async def test_what_is_no_event_is_refused(
    client: httpx.AsyncClient, app: App, request_: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert problem(await client.post("/events", **request_)) == expected
    assert await count(app) == 0


async def test_event_that_nobody_expects_or_that_does_not_fit(client: httpx.AsyncClient, app: App) -> None:
    other = {**PLACED, "type": "com.example.other"}
    assert problem(await deliver(client, other, ORDER)) == (404, "unknown-event")
    assert problem(await deliver(client, PLACED, {"order": {"id": 7}})) == (422, "invalid-body")
    assert problem(await deliver(client, PLACED)) == (422, "invalid-body")
    approved = {"type": "com.example.approved", "source": "/shop", "id": "a"}
    assert problem(await deliver(client, approved, {"granted": True})) == (422, "invalid-parameter")
    unknown = await deliver(client, {**approved, "subject": "nobody"}, {"granted": True})
    assert problem(unknown) == (404, "unknown-instance")
    headers = {f"ce-{name}": value for name, value in {**PLACED, "specversion": "1.0"}.items()}
    text = await client.post("/events", content=b"hello", headers={**headers, "content-type": "text/plain"})
    assert problem(text) == (415, "not-json")
    assert await count(app) == 0


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_event_s_trace_goes_on(framework: str, mode: str) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = make_app(hooks=[OpenTelemetry(tracer_provider=provider)])
    async with client_of(framework, app) as client:
        word = {"type": "com.example.word", "source": "/shop", "id": "w", "traceparent": TRACE}
        assert (await deliver(client, word, '"a"' if mode == "binary" else "a", mode=mode)).status_code == 204
        reply = await client.post("/flow/workflows/http_quick", headers={"traceparent": TRACE})
        assert reply.status_code == 201
        for info in await app.list():
            await (await app.get(info.id)).result(timeout=10)
    spans = exporter.get_finished_spans()
    assert len(spans) == 2
    for span in spans:
        assert span.parent is not None
        assert f"00-{span.parent.trace_id:032x}-{span.parent.span_id:016x}-01" == TRACE
