"""Durations as authors give them: a timedelta, or a number of seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import overload

from romancy.core.clock import MICROSECONDS

_LONGEST = 100 * 366 * 86_400
"""Seconds; an instant so far away still fits its column."""


@overload
def seconds_of(duration: timedelta | float) -> float: ...
@overload
def seconds_of(duration: timedelta | float | None) -> float | None: ...
def seconds_of(duration: timedelta | float | None) -> float | None:
    """Return a duration in seconds; None stays None."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def microseconds_of(duration: timedelta | float, name: str) -> int:
    """Return a duration in microseconds.

    Raises:
        ValueError: It is negative, no number, or over a hundred years; the message has its ``name``.
    """
    seconds = seconds_of(duration)
    if not 0 <= seconds <= _LONGEST:
        msg = f"{name}={duration!r}: use a timedelta, or seconds, from 0 to {_LONGEST}"
        raise ValueError(msg)
    return round(seconds * MICROSECONDS)


def checked_retention(kept: timedelta | None, name: str) -> timedelta | None:
    """Return for how long something is kept; None: for ever.

    Raises:
        ValueError: It is negative; the message has its ``name``.
    """
    if kept is None or kept == timedelta.max:
        return None
    if kept < timedelta(0):
        msg = f"{name}={kept!r} must not be negative; None keeps for ever"
        raise ValueError(msg)
    return kept
