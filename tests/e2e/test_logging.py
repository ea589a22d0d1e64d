"""Logging in workflows and activities: where a line comes from, and that a replay does not say it again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from romancy import App, Channel, activity, logger, workflow
from romancy.logging import RunFilter
from romancy.telemetry import OpenTelemetry

from .conftest import MakeApp

pytestmark = pytest.mark.anyio

words: Channel[str] = Channel("logging.words", str)
other = logging.getLogger("an.author")


class Keeping(logging.Handler):
    """Keep what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(vars(record) | {"text": record.getMessage()})

    def texts(self) -> list[str]:
        return [record["text"] for record in self.records]


@pytest.fixture
def kept() -> Iterator[Keeping]:
    handler = Keeping()
    levels = logger.level, other.level
    for each in (logger, other):
        each.addHandler(handler)
        each.setLevel(logging.INFO)
    yield handler
    for each, level in zip((logger, other), levels, strict=True):
        each.removeHandler(handler)
        each.setLevel(level)


@activity(name="logging_act")
async def act() -> None:
    logger.info("in the body of %s", "act")


@activity(name="logging_thread")
def in_thread() -> None:
    logger.info("in a thread")


@workflow(name="logging_talks")
async def talks() -> None:
    logger.info("begin")
    await act()
    other.info("an author's own")
    try:
        await words.receive()
        logger.info("received")
        await in_thread()
    finally:
        logger.info("finally")
    logger.info("end")


async def test_each_line_is_logged_once_with_where_it_comes_from(make_app: MakeApp, kept: Keeping) -> None:
    kept.addFilter(RunFilter())
    async with make_app() as app:
        handle = await app.start(talks(), id="one")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.002)
        await app.send(words, "go", to="one")
        await handle.result()
    logger.info("outside")
    assert kept.texts() == [
        *("begin", "in the body of act", "an author's own"),
        *("received", "in a thread", "finally", "end", "outside"),
    ]
    *inside, outside = kept.records
    assert {record["romancy_instance_id"] for record in inside} == {"one"}
    assert {record["romancy_run"] for record in inside} == {0}
    assert len({record["romancy_execution_id"] for record in inside}) == 1
    ids = {record["text"]: record.get("romancy_activity_id") for record in inside}
    assert ids == {
        **dict.fromkeys(("begin", "an author's own", "received", "finally", "end")),
        "in the body of act": "1:logging_act",
        "in a thread": "3:logging_thread",
    }
    assert {record["romancy_attempt"] for record in inside if "romancy_attempt" in record} == {1}
    assert {record.get("romancy_workflow") for record in inside} == {"logging_talks", None}
    assert not any(name.startswith("romancy") for name in outside)
    assert not any("trace_id" in record for record in inside)


async def test_lines_carry_the_trace_that_they_belong_to(kept: Keeping) -> None:
    tracer = TracerProvider(shutdown_on_exit=False)
    async with App("sqlite://", hooks=[OpenTelemetry(tracer_provider=tracer)]) as app:
        with tracer.get_tracer("test").start_as_current_span("request") as request:
            handle = await app.start(talks(), id="one")
        await app.send(words, "go", to="one")
        await handle.result()
    mine = [record for record in kept.records if "romancy_instance_id" in record]
    assert {record["trace_id"] for record in mine} == {f"{request.get_span_context().trace_id:032x}"}
    assert len({record["span_id"] for record in mine}) == 3  # the run's, and two activities'


async def test_logger_works_where_no_workflow_runs(kept: Keeping) -> None:
    await act()
    await in_thread()
    assert kept.texts() == ["in the body of act", "in a thread"]
