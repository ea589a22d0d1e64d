"""The signal by which a run leaves memory."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from datetime import datetime

    from romancy.core.calls import WorkflowCall


class SuspendKind(StrEnum):
    """Say what a suspended task was waiting for."""

    TIMER = "timer"
    CHANNEL_MESSAGE = "channel_message"
    ACTIVITY = "activity"
    CHILD = "child"
    RECUR = "recur"


class SuspendSignal(BaseException):
    """Unwind a workflow's coroutines when the run leaves memory.

    It is not an error: the run goes on later, by replay. Nothing that happens while it unwinds is recorded, run
    or sent. Code that catches ``BaseException`` should let it pass.

    Attributes:
        kind: What the task waited for.
        instance_id: The instance, ``""`` where it is not known.
        activity_id: The operation or timer waited for, if one is known.
        expires_at: When the timer is due (TIMER).
        channel: The channel's name (CHANNEL_MESSAGE).
        timeout: The receive's time limit in seconds, if it has one (CHANNEL_MESSAGE).
        new_input: The call that opens the next run (RECUR).
    """

    def __init__(
        self,
        kind: SuspendKind,
        *,
        instance_id: str = "",
        activity_id: str | None = None,
        expires_at: datetime | None = None,
        channel: str | None = None,
        timeout: float | None = None,
        new_input: WorkflowCall[object] | None = None,
    ) -> None:
        super().__init__(f"{kind.value} {activity_id or ''}".strip())
        self.kind = kind
        self.instance_id = instance_id
        self.activity_id = activity_id
        self.expires_at = expires_at
        self.channel = channel
        self.timeout = timeout
        self.new_input = new_input


def members_of(exc: BaseException) -> tuple[BaseException, ...]:
    """Return what an exception group is made of; nothing for any other exception."""
    if not isinstance(exc, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", exc).exceptions


def as_suspend_signal(exc: BaseException | None) -> SuspendSignal | None:
    """Return the signal that an exception is, groups (`BaseExceptionGroup`) or was caused by; None if there is none."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [exc]
    while todo:
        found = todo.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, SuspendSignal):
            return found
        todo.extend(members_of(found))
        todo.append(found.__cause__)
    return None


def is_suspend_signal(exc: BaseException | None) -> bool:
    """Tell whether an exception is, groups or was caused by a `SuspendSignal`."""
    return as_suspend_signal(exc) is not None


def clear_tracebacks(exc: BaseException | None, seen: set[int] | None = None) -> None:
    """Drop the frames that an exception, its causes, contexts and members keep alive."""
    seen = set() if seen is None else seen
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        exc.__traceback__ = None
        for member in members_of(exc):
            clear_tracebacks(member, seen)
        if exc.__cause__ is not None:
            clear_tracebacks(exc.__cause__, seen)
        exc = exc.__context__
