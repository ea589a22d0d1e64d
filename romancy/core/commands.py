"""What a turn asks its worker and the commit to do."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from romancy.core.calls import ActivityCall
from romancy.core.requests import Order, Request


class RunActivity(msgspec.Struct, frozen=True):
    """Run an activity's body.

    ``attempt`` counts from 1. The body starts at ``not_before`` at the earliest (epoch microseconds; 0: at once).
    ``scheduled_at`` is the stamp of the turn that asked first. ``details`` are the encoded ones that the last
    heartbeat of an earlier attempt has left.
    """

    activity_id: str
    call: ActivityCall[object]
    attempt: int
    not_before: int
    scheduled_at: int
    details: bytes | None = None


class CancelActivity(msgspec.Struct, frozen=True):
    """Tell an activity's body to stop; its outcome is no longer of interest.

    ``is_over``: somebody else has completed the activity, so its body may come to its end by itself.
    """

    activity_id: str
    is_over: bool = False


Command: TypeAlias = RunActivity | CancelActivity | Request | Order
