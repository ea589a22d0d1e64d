"""The server's time is told right, whatever this machine's clock says and however long a measurement took."""

from __future__ import annotations

import time

import pytest

from romancy.core.clock import SystemClock
from romancy.storage import postgres_clock
from romancy.storage.postgres_clock import ServerClock, monotonic

SECOND = 1_000_000
HOUR = 3600 * SECOND
SERVER = 1_700_000_000 * SECOND
"""The server's clock when this machine's monotonic one is 0."""


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Hold what the monotonic clock says, in its only item."""
    instant = [0]
    monkeypatch.setattr(postgres_clock, "monotonic", lambda: instant[0])
    return instant


@pytest.fixture
def clock(passed: list[int]) -> ServerClock:
    return ServerClock()


def measure(clock: ServerClock, passed: list[int], there: int, back: int, *, server: int = SERVER) -> None:
    """Ask the server, with an answer that takes so long there and back."""
    sent = passed[0]
    passed[0] += there + back
    clock.measured(server + sent + there, sent, passed[0])


def test_before_the_first_measurement_it_is_the_machine_s_clock(clock: ServerClock) -> None:
    assert abs(clock.now() - SystemClock().now()) < SECOND


def test_time_passes_between_measurements(clock: ServerClock, passed: list[int]) -> None:
    measure(clock, passed, 100, 100)
    assert clock.now() == SERVER + 200
    passed[0] += HOUR
    assert clock.now() == SERVER + 200 + HOUR


def test_machine_s_clock_changes_nothing(
    clock: ServerClock, passed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(clock, passed, 100, 100)
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert clock.now() == SERVER + 200


def test_quick_answer_counts_more_than_a_slow_one(clock: ServerClock, passed: list[int]) -> None:
    measure(clock, passed, 100, 100)
    measure(clock, passed, 900_000, 100)
    assert abs(clock.now() - SERVER - passed[0]) <= 100


def test_slow_first_answer_is_forgotten_with_the_first_quick_one(clock: ServerClock, passed: list[int]) -> None:
    measure(clock, passed, 0, 30 * SECOND)  # stopped while it waited for the answer
    assert abs(clock.now() - SERVER - passed[0]) == 15 * SECOND
    measure(clock, passed, 100, 100)
    assert abs(clock.now() - SERVER - passed[0]) <= 100


@pytest.mark.parametrize("change", [HOUR, -HOUR, 5 * SECOND])
def test_server_s_clock_is_set(clock: ServerClock, passed: list[int], change: int) -> None:
    measure(clock, passed, 100, 100)
    measure(clock, passed, 2_000, 2_000, server=SERVER + change)
    assert abs(clock.now() - SERVER - change - passed[0]) <= 2_000


def test_machine_has_slept_while_its_monotonic_clock_stood_still(clock: ServerClock, passed: list[int]) -> None:
    measure(clock, passed, 100, 100)
    measure(clock, passed, 300, 300, server=SERVER + HOUR)
    assert abs(clock.now() - SERVER - HOUR - passed[0]) <= 300


def test_old_measurement_gives_way_to_a_worse_one(clock: ServerClock, passed: list[int]) -> None:
    measure(clock, passed, 10, 10)
    passed[0] += 2 * 60 * SECOND
    drift = 20_000  # microseconds that the two clocks have gone apart since
    measure(clock, passed, 1_000, 1_000, server=SERVER + drift)
    assert abs(clock.now() - SERVER - drift - passed[0]) <= 1_000


def test_monotonic_is_in_microseconds() -> None:
    one = monotonic()
    assert 0 <= monotonic() - one < 10 * SECOND
