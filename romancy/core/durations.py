"""Durations as authors give them: a timedelta, or a number of seconds."""

from __future__ import annotations

from datetime import timedelta
from typing import overload


@overload
def seconds_of(duration: timedelta | float) -> float: ...
@overload
def seconds_of(duration: timedelta | float | None) -> float | None: ...
def seconds_of(duration: timedelta | float | None) -> float | None:
    """Return a duration in seconds; None stays None."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration
