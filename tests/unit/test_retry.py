from __future__ import annotations

import math
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from romancy.core.retry import MAX_DELAY, NEVER_RETRIED, RetryPolicy, next_delay
from romancy.errors import (
    CodecError,
    DefinitionError,
    NonRetryableError,
    NotInWorkflowError,
    OutsideWorkflowError,
    PayloadTooLargeError,
    RetryAfter,
)

ZERO = timedelta(0)
BROKEN = ConnectionError("refused")


def delay(
    policy: RetryPolicy,
    exc: BaseException = BROKEN,
    attempt: int = 1,
    elapsed: timedelta = ZERO,
    random: float = 0.0,
) -> timedelta | None:
    return next_delay(policy, exc, attempt=attempt, elapsed=elapsed, random=random)


def test_policy_defaults_are_those_of_the_documentation() -> None:
    assert RetryPolicy() == RetryPolicy(
        initial_interval=timedelta(seconds=0.5),
        backoff=2.0,
        max_interval=timedelta(seconds=60),
        max_attempts=None,
        max_duration=timedelta(minutes=10),
        jitter=0.2,
        non_retryable=(),
    )


def test_policy_takes_numbers_as_seconds() -> None:
    policy = RetryPolicy(initial_interval=2, max_interval=30.5, max_duration=90)
    assert policy == RetryPolicy(
        initial_interval=timedelta(seconds=2),
        max_interval=timedelta(seconds=30.5),
        max_duration=timedelta(seconds=90),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("initial_interval", timedelta(seconds=-1)),
        ("initial_interval", "1"),
        ("initial_interval", math.nan),
        ("initial_interval", timedelta(seconds=61)),
        ("max_interval", timedelta(seconds=-1)),
        ("max_interval", None),
        ("max_interval", 1e300),
        ("max_duration", timedelta(seconds=-1)),
        ("max_duration", math.inf),
        ("backoff", 0.99),
        ("backoff", math.inf),
        ("backoff", math.nan),
        ("backoff", "2"),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", math.nan),
        ("max_attempts", 0),
        ("max_attempts", 1.5),
        ("max_attempts", True),
        ("non_retryable", ValueError),
        ("non_retryable", (int,)),
        ("non_retryable", ("ValueError",)),
    ],
)
def test_policy_refuses_a_value_out_of_range_and_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        RetryPolicy(**{field: value})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_policy_is_frozen() -> None:
    with pytest.raises(AttributeError):
        RetryPolicy().jitter = 0.5  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


def test_policy_keeps_a_list_of_classes_as_a_tuple() -> None:
    policy = RetryPolicy(non_retryable=[ValueError])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert policy.non_retryable == (ValueError,)


def test_policy_can_be_replaced() -> None:
    assert msgspec.structs.replace(RetryPolicy(), max_attempts=3).max_attempts == 3


def test_none_is_one_attempt() -> None:
    assert delay(RetryPolicy.none()) is None
    assert delay(RetryPolicy.none(), RetryAfter(1)) is None


def test_next_delay_grows_by_backoff_up_to_the_longest() -> None:
    found = [delay(RetryPolicy(), attempt=attempt) for attempt in range(1, 10)]
    assert found == [timedelta(seconds=n) for n in (0.5, 1, 2, 4, 8, 16, 32, 60, 60)]


def test_next_delay_takes_jitter_off() -> None:
    assert delay(RetryPolicy(jitter=0.5), random=0.5) == timedelta(seconds=0.375)


@pytest.mark.parametrize("backoff", [1.0, 2.0, 1e300])
def test_next_delay_does_not_overflow(backoff: float) -> None:
    policy = RetryPolicy(backoff=backoff, max_interval=timedelta.max, max_duration=None)
    found = delay(policy, attempt=10_000)
    assert found is not None
    assert found <= MAX_DELAY


def test_next_delay_of_a_zero_interval_is_zero() -> None:
    assert delay(RetryPolicy(initial_interval=ZERO), attempt=10_000) == ZERO


def test_next_delay_gives_up_after_the_last_attempt() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert delay(policy, attempt=2) is not None
    assert delay(policy, attempt=3) is None
    assert delay(policy, attempt=4) is None


def test_next_delay_ends_with_the_duration() -> None:
    policy = RetryPolicy(initial_interval=timedelta(seconds=40), max_duration=timedelta(seconds=100))
    assert delay(policy, elapsed=timedelta(seconds=50)) == timedelta(seconds=40)
    assert delay(policy, elapsed=timedelta(seconds=70)) == timedelta(seconds=30)
    assert delay(policy, elapsed=timedelta(seconds=100)) is None
    assert delay(policy, elapsed=timedelta(seconds=101)) is None


def test_next_delay_without_a_duration_goes_on() -> None:
    assert delay(RetryPolicy(max_duration=None), elapsed=timedelta(days=400)) == timedelta(seconds=0.5)


@pytest.mark.parametrize(
    "exc",
    [
        NonRetryableError("no"),
        TypeError("no"),
        UnboundLocalError("no"),
        AttributeError("no"),
        ModuleNotFoundError("no"),
        CodecError("no"),
        PayloadTooLargeError("no"),
        NotInWorkflowError("no"),
        OutsideWorkflowError("no"),
        DefinitionError("no"),
    ],
)
def test_next_delay_gives_up_on_what_will_not_change(exc: Exception) -> None:
    assert isinstance(exc, NEVER_RETRIED)
    assert delay(RetryPolicy(max_duration=None), exc) is None


def test_next_delay_gives_up_on_the_policys_own_classes() -> None:
    policy = RetryPolicy(non_retryable=(LookupError,))
    assert delay(policy, KeyError("gone")) is None
    assert delay(policy, ValueError("odd")) is not None


def test_next_delay_of_retry_after_replaces_the_interval() -> None:
    assert delay(RetryPolicy(), RetryAfter(timedelta(seconds=90)), random=0.9) == timedelta(seconds=90)
    assert delay(RetryPolicy(), RetryAfter(1.5)) == timedelta(seconds=1.5)
    assert delay(RetryPolicy(), RetryAfter(0)) == ZERO


def test_next_delay_of_retry_after_is_subject_to_the_limits() -> None:
    policy = RetryPolicy(max_attempts=2)
    assert delay(policy, RetryAfter(3600)) == timedelta(minutes=10)
    assert delay(policy, RetryAfter(1), attempt=2) is None
    assert delay(policy, RetryAfter(1), elapsed=timedelta(minutes=10)) is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (-5, ZERO),
        (timedelta(days=-1), ZERO),
        (math.inf, MAX_DELAY),
        (timedelta.max, MAX_DELAY),
        (math.nan, timedelta(seconds=0.5)),
        ("soon", timedelta(seconds=0.5)),
    ],
)
def test_next_delay_of_retry_after_is_always_a_delay(asked: object, expected: timedelta) -> None:
    exc = RetryAfter(asked)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert delay(RetryPolicy(max_duration=None), exc) == expected


def test_next_delay_of_a_group_is_that_of_its_members() -> None:
    def group(*members: Exception) -> ExceptionGroup[Exception]:
        return ExceptionGroup("several", [ExceptionGroup("inner", members), OSError("gone")])

    assert delay(RetryPolicy(), group(OSError("gone"))) == timedelta(seconds=0.5)
    assert delay(RetryPolicy(), group(OSError("gone"), NonRetryableError("no"))) is None
    assert delay(RetryPolicy(), group(RetryAfter(5), RetryAfter(7))) == timedelta(seconds=7)
    assert delay(RetryPolicy(non_retryable=(ExceptionGroup,)), group(OSError("gone"))) is None


intervals = st.timedeltas(min_value=ZERO, max_value=timedelta(days=10))


@st.composite
def policies(draw: st.DrawFn, jitter: st.SearchStrategy[float]) -> RetryPolicy:
    initial, longest = sorted([draw(intervals), draw(intervals)])
    return RetryPolicy(
        initial_interval=initial,
        max_interval=longest,
        backoff=draw(st.floats(min_value=1, max_value=1e6)),
        max_attempts=draw(st.none() | st.integers(min_value=1, max_value=100)),
        max_duration=draw(st.none() | intervals),
        jitter=draw(jitter),
    )


@given(
    policy=policies(st.floats(min_value=0, max_value=1)),
    attempt=st.integers(min_value=1, max_value=100_000),
    elapsed=intervals,
    random=st.floats(min_value=0, max_value=1, exclude_max=True),
)
def test_next_delay_is_within_bounds(policy: RetryPolicy, attempt: int, elapsed: timedelta, random: float) -> None:
    initial_interval, max_interval = policy.initial_interval, policy.max_interval
    max_duration = policy.max_duration
    assert isinstance(initial_interval, timedelta)
    assert isinstance(max_interval, timedelta)
    assert max_duration is None or isinstance(max_duration, timedelta)
    found = delay(policy, attempt=attempt, elapsed=elapsed, random=random)
    is_over = (policy.max_attempts is not None and attempt >= policy.max_attempts) or (
        max_duration is not None and elapsed >= max_duration
    )
    assert (found is None) is is_over
    if found is not None:
        assert ZERO <= found <= max_interval
        if max_duration is not None:
            assert elapsed + found <= max_duration
        else:
            slack = timedelta(microseconds=1)
            assert found >= initial_interval * (1 - policy.jitter) - slack


@given(policy=policies(st.just(0.0)), attempt=st.integers(min_value=1, max_value=2000))
def test_next_delay_without_jitter_never_shrinks(policy: RetryPolicy, attempt: int) -> None:
    unlimited = msgspec.structs.replace(policy, max_attempts=None, max_duration=None)
    first, second = delay(unlimited, attempt=attempt), delay(unlimited, attempt=attempt + 1)
    assert first is not None
    assert second is not None
    assert first <= second
