"""What the commands print in common: colours, instants, JSON."""

from __future__ import annotations

from datetime import datetime

import msgspec

COLOURS = {
    "completed": "green",
    "failed": "red",
    "blocked": "red",
    "timed_out": "red",
    "cancelled": "yellow",
    "terminated": "yellow",
    "paused": "yellow",
}
"""By status."""


def time_of(instant: datetime) -> str:
    """Return an instant in the local time zone, to the second."""
    return f"{instant.astimezone():%Y-%m-%d %H:%M:%S}"


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    print(msgspec.json.format(msgspec.json.encode(value)).decode())
