"""When a failed activity is tried again: arithmetic alone, no clock and no randomness of its own."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeGuard, cast

import msgspec

from romancy.errors import (
    CodecError,
    DefinitionError,
    NonRetryableError,
    NotInWorkflowError,
    OutsideWorkflowError,
    PayloadTooLargeError,
    RetryAfter,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NEVER_RETRIED: Final = (
    NonRetryableError,
    # Mistakes in the program: the next attempt makes them again.
    TypeError,
    NameError,
    AttributeError,
    ImportError,
    CodecError,
    PayloadTooLargeError,
    NotInWorkflowError,
    OutsideWorkflowError,
    DefinitionError,
)
"""What ends an activity at once, whatever its policy."""

MAX_DELAY: Final = timedelta(days=36_500)
"""The longest delay there is, so that a deadline in microseconds fits in 64 bits."""


class RetryPolicy(msgspec.Struct, frozen=True):
    """How often and how soon a failed activity is tried again.

    The n-th retry follows ``initial_interval * backoff ** (n - 1)`` after the failure, at most
    ``max_interval``, times a factor uniformly in ``[1 - jitter, 1]``.

    Args:
        initial_interval: The first interval. For every duration, a bare number is seconds.
        backoff: What each interval is multiplied by for the next; at least 1.
        max_interval: The longest interval; not below the first.
        max_attempts: Attempts in all, the first included; None for no limit.
        max_duration: How long after the first attempt began another may begin; None for no limit.
        jitter: How much of an interval is random, from 0 to 1.
        non_retryable: Exception classes that end the activity at once.

    Raises:
        ValueError: A value is out of its range.
    """

    initial_interval: timedelta | float = timedelta(milliseconds=500)
    backoff: float = 2.0
    max_interval: timedelta | float = timedelta(seconds=60)
    max_attempts: int | None = None
    max_duration: timedelta | float | None = timedelta(minutes=10)
    jitter: float = 0.2
    non_retryable: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        initial_interval = self._duration("initial_interval")
        max_interval = self._duration("max_interval")
        if initial_interval > max_interval:
            raise ValueError(f"max_interval ({max_interval}) is below initial_interval ({initial_interval})")
        if self.max_duration is not None:
            self._duration("max_duration")
        if not _is_number(self.backoff) or self.backoff < 1:
            raise ValueError(f"backoff is at least 1, not {self.backoff!r}")
        if not _is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is from 0 to 1, not {self.jitter!r}")
        if self.max_attempts is not None and (not _is_whole(self.max_attempts) or self.max_attempts < 1):
            raise ValueError(f"max_attempts is a whole number from 1 on, or None, not {self.max_attempts!r}")
        self._check_non_retryable()

    @classmethod
    def none(cls) -> RetryPolicy:
        """Return the policy of one attempt."""
        return cls(max_attempts=1)

    def _duration(self, name: str) -> timedelta:
        """Return a field as a duration, and keep it as one."""
        value = cast("object", getattr(self, name))
        if _is_number(value) and abs(value) <= MAX_DELAY.total_seconds():
            value = timedelta(seconds=value)
            msgspec.structs.force_setattr(self, name, value)
        if not isinstance(value, timedelta) or value < timedelta(0):
            raise ValueError(f"{name} is a timedelta of at least 0 (or a number of seconds), not {value!r}")
        return value

    def _check_non_retryable(self) -> None:
        classes = cast("object", self.non_retryable)
        if isinstance(classes, (list, set, frozenset)):
            classes = tuple(cast("list[object]", classes))
            msgspec.structs.force_setattr(self, "non_retryable", classes)
        if not isinstance(classes, tuple) or not all(
            isinstance(cls, type) and issubclass(cls, BaseException) for cls in cast("tuple[object, ...]", classes)
        ):
            raise ValueError(f"non_retryable is a tuple of exception classes, not {classes!r}")


def next_delay(
    policy: RetryPolicy, exc: BaseException, *, attempt: int, elapsed: timedelta, random: float
) -> timedelta | None:
    """Say how long to wait before the next attempt.

    A delay that would end after ``max_duration`` ends at it: the last attempt is made at the very end, so
    that what came back to life within the time that it was given is not missed. An exception group counts as
    what is in it: one member that is not retried ends the activity; the longest `RetryAfter` holds.

    Args:
        policy: The policy.
        exc: What the attempt failed with.
        attempt: The number of the attempt that failed, from 1.
        elapsed: Since the first attempt began.
        random: Uniformly in [0, 1).

    Returns:
        The delay, from 0 to `MAX_DELAY`; None to give up.
    """
    members = list(_members(exc))
    if is_never_retried(exc) or any(isinstance(member, policy.non_retryable) for member in (exc, *members)):
        return None
    if policy.max_attempts is not None and attempt >= policy.max_attempts:
        return None
    requested = [_requested(member) for member in members if isinstance(member, RetryAfter)]
    delay = max((delay for delay in requested if delay is not None), default=None)
    if delay is None:
        delay = _interval(policy, attempt, random)
    if policy.max_duration is None:
        return delay
    left = _kept(policy.max_duration) - elapsed
    return min(delay, left) if left > timedelta(0) else None


def is_never_retried(exc: BaseException) -> bool:
    """Tell whether an exception, or a member of a group, ends an activity at once, whatever its policy."""
    return any(isinstance(member, NEVER_RETRIED) for member in (exc, *_members(exc)))


def _interval(policy: RetryPolicy, attempt: int, random: float) -> timedelta:
    initial = _kept(policy.initial_interval).total_seconds()
    longest = min(_kept(policy.max_interval), MAX_DELAY)
    if not initial:
        return timedelta(0)
    try:
        seconds = initial * policy.backoff ** (attempt - 1)
    except OverflowError:
        seconds = math.inf
    seconds = min(seconds, longest.total_seconds()) * (1 - policy.jitter * random)
    return min(timedelta(seconds=seconds), longest)


def _kept(duration: timedelta | float) -> timedelta:
    """Return a policy's duration: whatever it was given as, it is kept as a timedelta."""
    return duration if isinstance(duration, timedelta) else timedelta(seconds=duration)


def _requested(error: RetryAfter) -> timedelta | None:
    """Return the delay that ``error`` asks for; None if what it holds is none."""
    delay = cast("object", error.delay)
    if isinstance(delay, timedelta):
        return min(max(delay, timedelta(0)), MAX_DELAY)
    if not isinstance(delay, (int, float)) or math.isnan(delay):
        return None
    return timedelta(seconds=min(max(float(delay), 0.0), MAX_DELAY.total_seconds()))


def _members(exc: BaseException) -> Iterator[BaseException]:
    if not isinstance(exc, BaseExceptionGroup):
        yield exc
        return
    for member in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
        yield from _members(member)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
