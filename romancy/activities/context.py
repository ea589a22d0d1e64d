"""What an activity may know of its own call."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from romancy.core.commands import RunActivity
from romancy.core.tracing import TraceContext
from romancy.errors import OutsideWorkflowError

if TYPE_CHECKING:
    from romancy.core.codec import Subject


class ActivityInfo(msgspec.Struct, frozen=True):
    """The running activity.

    Attributes:
        instance_id: The instance whose workflow called it.
        execution_id: The start's random number, in hexadecimal.
        activity_id: The operation's id in the run, such as ``3:charge``.
        name: The activity's name.
        attempt: The number of this attempt, from 1.
        idempotency_key: The same for every attempt of this operation, and never the same for another
            operation, run or start: hand it to the service that is called.
        deadline: When this attempt is timed out; None if it is not bounded.
        heartbeat_details: What an earlier attempt has last given to `heartbeat`, or this attempt before its process
            died: None, or plain JSON types (a tuple has become a list, a dataclass a dict).
    """

    instance_id: str
    execution_id: str
    activity_id: str
    name: str
    attempt: int
    idempotency_key: str
    deadline: datetime | None
    heartbeat_details: Any = None


class Pulse:
    """What an attempt's body and its worker share. Any thread may touch it.

    Attributes:
        details: The encoded details of the last heartbeat, of this attempt or an earlier one.
        beaten_at: When it last gave a sign of life, by the monotonic clock.
        is_stopped: Nobody waits for the body any more.
        has_token: It has been told that somebody outside will finish the attempt.
    """

    details: bytes | None = None
    beaten_at = 0.0
    is_stopped = False
    has_token = False


class Heart(Protocol):
    """Keeps what attempts tell by their heartbeats."""

    def keep(self, pulse: Pulse, details: object, what: Subject) -> None:
        """Keep an attempt's latest details. Any thread may call it.

        Raises:
            CodecError: They can't be encoded.
            PayloadTooLargeError: They are over the limit.
        """
        ...

    def read(self, details: bytes) -> object:
        """Return kept details as plain JSON types."""
        ...


class ActivityContext(NamedTuple):
    """What an activity's description is made of when it is asked for, and how it talks to its worker."""

    instance_id: str
    execution_id: int
    run: int
    command: RunActivity
    deadline: datetime | None
    details: bytes | None
    pulse: Pulse
    heart: Heart
    run_trace: TraceContext | None


current_activity: ContextVar[ActivityContext] = ContextVar("romancy_activity")


def running_activity(what: str) -> ActivityContext:
    """Return the context of the activity that runs here.

    Raises:
        OutsideWorkflowError: None does; the message names ``what`` was called.
    """
    context = current_activity.get(None)
    if context is None:
        msg = f"{what} was called where no activity of a workflow runs"
        raise OutsideWorkflowError(msg)
    return context


def activity_info() -> ActivityInfo:
    """Describe the running activity.

    Raises:
        OutsideWorkflowError: No activity of a workflow runs here.
    """
    context = running_activity("activity_info()")
    command = context.command
    mark: str = getattr(command.call, "mark", "")
    execution_id = f"{context.execution_id:016x}"
    return ActivityInfo(
        instance_id=context.instance_id,
        execution_id=execution_id,
        activity_id=command.activity_id,
        name=command.call.definition.name,
        attempt=command.attempt,
        idempotency_key=f"{execution_id}/{context.run}/{command.activity_id}{mark}",
        deadline=context.deadline,
        heartbeat_details=None if context.details is None else context.heart.read(context.details),
    )
