"""The log says that the database went away, that it still is, and that it is back: once each."""

from __future__ import annotations

import logging
import time

import pytest

from romancy.storage.outages import Outages, explain


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    instant = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: instant[0])
    return instant


def test_outage_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    said = Outages("shop")
    said.succeeded()
    for _ in range(5):
        said.failed(OSError("no route"))
        clock[0] += 2.0
    causes = [said.cause]
    said.succeeded()
    said.succeeded()
    assert [*map(type, causes), said.cause] == [OSError, None]
    assert caplog.messages == ["shop: lost: no route; trying again until it is back", "shop: back after 10.0 s"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_long_outage_is_told_again_now_and_then(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    said = Outages("shop")
    for _ in range(1 + 3 * 60):
        said.failed(TimeoutError())
        clock[0] += 1.0
    assert caplog.messages[1:] == [f"shop: lost for {seconds} s: TimeoutError" for seconds in (60, 120, 180)]


def test_next_outage_is_another(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    said = Outages("shop")
    for _ in range(2):
        said.failed(OSError("no route"))
        said.succeeded()
    assert len(caplog.messages) == 4


def test_error_without_a_text_is_named() -> None:
    assert explain(TimeoutError()) == "TimeoutError"
    assert explain(OSError("away")) == "away"
