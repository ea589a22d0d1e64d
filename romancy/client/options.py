"""How an instance is started, checked before anything is written."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from romancy.core.clock import MICROSECONDS
from romancy.core.durations import microseconds_of
from romancy.core.shown import check_tags

if TYPE_CHECKING:
    from collections.abc import Mapping

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LATEST = datetime.max.replace(tzinfo=UTC)

PRIORITIES = range(-2, 3)
"""Few, because a claim probes each of them."""


def due_at(start_at: datetime | None, delay: timedelta | float | None, now: int) -> int:
    """Return when an instance is to begin, in epoch microseconds; ``now`` at the earliest.

    Raises:
        ValueError: Both are given, the instant has no time zone, the delay is negative or no number, or the time is out
            of range.
        TypeError: They are something else.
    """
    if start_at is not None:
        if delay is not None:
            msg = "start_at and delay were both given: an instance begins at an instant or after a delay"
            raise ValueError(msg)
        if start_at.tzinfo is None:
            msg = f"start_at={start_at!r} needs an aware datetime, such as one with tzinfo=UTC"
            raise ValueError(msg)
        return max((start_at - _EPOCH) // _MICROSECOND, now)
    if delay is None:
        return now
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not math.isfinite(seconds) or seconds < 0:
        msg = f"delay={delay!r} must be a timedelta or a number of seconds, and not negative"
        raise ValueError(msg)
    latest = (_LATEST - _EPOCH) // _MICROSECOND
    due = now + round(min(seconds, latest) * MICROSECONDS)  # a float that is too large times that is infinite
    if due > latest:
        msg = f"delay={delay!r} is too long: an instance must begin before the year 10000"
        raise ValueError(msg)
    return due


def deadline_after(timeout: timedelta | float | None, due: int) -> int | None:
    """Return when the time limit of an instance that begins at ``due`` is reached; None: it has none.

    Raises:
        ValueError: The limit is not positive, or too long.
    """
    if timeout is None:
        return None
    limit = microseconds_of(timeout, "timeout")
    if limit == 0:
        msg = f"start(timeout={timeout!r}): a time limit has to be positive"
        raise ValueError(msg)
    if due + limit > (_LATEST - _EPOCH) // _MICROSECOND:
        msg = f"start(timeout={timeout!r}): a time limit must be reached before the year 10000"
        raise ValueError(msg)
    return due + limit


def check_priority(priority: int) -> int:
    """Return a priority that can be stored.

    Raises:
        ValueError: There is no such priority.
    """
    given = cast("object", priority)
    if not isinstance(given, int) or isinstance(given, bool) or given not in PRIORITIES:
        msg = f"{priority!r} is no priority: use a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}, 0 by default"
        raise ValueError(msg)
    return given


def check_start_tags(tags: Mapping[str, str] | None, what: str) -> dict[str, str]:
    """Return tags to store or to look for; see `check_tags`."""
    return cast("dict[str, str]", check_tags(tags, what)) if tags else {}
