"""What an instance that has ended without a result, or is blocked, raises where its result is waited for."""

from __future__ import annotations

from romancy.core.failures import decode_failure
from romancy.core.records import Status
from romancy.errors import (
    RomancyError,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
)

_ERRORS: dict[Status, type[WorkflowFailedError]] = {
    Status.FAILED: WorkflowFailedError,
    Status.CANCELLED: WorkflowCancelledError,
    Status.TERMINATED: WorkflowTerminatedError,
    Status.TIMED_OUT: WorkflowTimedOutError,
}


def error_of(id: str, status: Status, payload: bytes | None) -> RomancyError:
    """Return the error that tells how an instance has ended, or why it is blocked.

    Args:
        id: Its id.
        status: How it stands.
        payload: What its last event holds, or why it is blocked: an encoded failure, if there is one.
    """
    failure = decode_failure(payload) if payload else None
    if status is Status.BLOCKED:
        reason, stack = (failure.message, failure.traceback) if failure is not None else ("unknown", "")
        return WorkflowBlockedError(f"instance {id!r} is blocked: {reason}", reason, stack)
    told = f"{failure.type.partition(':')[2]}: {failure.message}" if failure is not None else "no reason"
    undoing = "" if failure is None else "".join(f"; {each.message}" for each in failure.undoing_failures)
    message = f"instance {id!r} {status.name.lower().replace('_', ' ')}: {told}{undoing}"
    return _ERRORS.get(status, WorkflowFailedError)(message, failure)
