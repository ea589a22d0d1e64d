"""What an activity may know of its own call."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime
from typing import NamedTuple

import msgspec

from romancy.core.commands import RunActivity
from romancy.errors import OutsideWorkflowError


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
    """

    instance_id: str
    execution_id: str
    activity_id: str
    name: str
    attempt: int
    idempotency_key: str
    deadline: datetime | None


class ActivityContext(NamedTuple):
    """What an activity's description is made of when it is asked for."""

    instance_id: str
    execution_id: int
    run: int
    command: RunActivity
    deadline: datetime | None


current_activity: ContextVar[ActivityContext] = ContextVar("romancy_activity")


def activity_info() -> ActivityInfo:
    """Describe the running activity.

    Raises:
        OutsideWorkflowError: No activity of a workflow runs here.
    """
    context = current_activity.get(None)
    if context is None:
        msg = "activity_info() was called where no activity of a workflow runs"
        raise OutsideWorkflowError(msg)
    command = context.command
    execution_id = f"{context.execution_id:016x}"
    return ActivityInfo(
        instance_id=context.instance_id,
        execution_id=execution_id,
        activity_id=command.activity_id,
        name=command.call.definition.name,
        attempt=command.attempt,
        idempotency_key=f"{execution_id}/{context.run}/{command.activity_id}",
        deadline=context.deadline,
    )
