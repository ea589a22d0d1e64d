"""What follows when an attempt at an activity ends without a result."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import msgspec

from romancy.core.events import (
    NOTHING,
    ActivityFailed,
    ActivityHandedOver,
    ActivityRetried,
    Attempt,
    HandOver,
)
from romancy.core.failures import decode_failure, encode_failure, exception_of, failure_of
from romancy.core.retry import next_delay
from romancy.errors import ActivityTimedOutError

if TYPE_CHECKING:
    from romancy.core.clock import Clock
    from romancy.core.commands import RunActivity
    from romancy.core.retry import RetryPolicy
    from romancy.worker.bodies import Body

_MICROSECOND = timedelta(microseconds=1)
_encode = msgspec.json.Encoder().encode


class Outcomes:
    """Decide by the retry policy, and by how much time is left, whether there is another attempt."""

    def __init__(self, clock: Clock, retry: RetryPolicy) -> None:
        """Prepare; ``retry`` is the policy of activities that have none of their own."""
        self._clock = clock
        self._retry = retry

    def after_failure(
        self,
        command: RunActivity,
        exc: BaseException,
        *,
        details: bytes | None,
        stack: str = "",
        is_final: bool = False,
    ) -> ActivityFailed | ActivityRetried:
        """Return what follows a failed attempt: another one, or the activity's failure.

        Args:
            command: The attempt.
            exc: What it failed with.
            details: Those of the last heartbeat, for the next attempt.
            stack: Where it was, for an exception that has no traceback.
            is_final: There is no other attempt, whatever the policy.
        """
        settings = command.call.definition.settings
        now = self._clock.now()
        elapsed = timedelta(microseconds=max(now - command.scheduled_at, 0))
        failure = failure_of(exc, attempts=command.attempt, activity_id=command.activity_id)
        if stack and not failure.traceback:
            failure = msgspec.structs.replace(failure, traceback=stack)
        delay = None
        if not (is_final or isinstance(exc, SystemExit) or failure.kind == "total_timeout"):
            policy = settings.retry or self._retry
            delay = next_delay(
                policy,
                cast("Exception", exc),
                attempt=command.attempt,
                elapsed=elapsed,
                random=random.random(),
            )
        if delay is not None and settings.total_timeout is not None and elapsed + delay >= settings.total_timeout:
            delay = None
        if delay is None:
            return ActivityFailed(command.activity_id, encode_failure(failure), command.attempt)
        retry_at = now + delay // _MICROSECOND
        attempt = Attempt(command.attempt, retry_at, msgspec.Raw(encode_failure(failure)), _raw(details))
        return ActivityRetried(command.activity_id, _encode(attempt))

    def after_failure_outside(
        self, command: RunActivity, failure: bytes, *, is_final: bool
    ) -> ActivityFailed | ActivityRetried:
        """Return what follows when somebody outside says that an attempt has failed."""
        exc = exception_of(decode_failure(failure))
        return self.after_failure(command, exc, details=command.details, is_final=is_final)

    def after_time_out(self, body: Body, kind: str, seconds: float) -> ActivityFailed | ActivityRetried:
        """Return what follows an attempt that has run out of its ``kind`` of time."""
        command = body.command
        if kind == "heartbeat_timeout":
            told = f"has not called heartbeat() for {seconds} s ({kind})"
        else:
            told = f"ran out of its {kind} ({seconds} s)"
        message = f"activity {command.activity_id} of instance {body.run.id!r} {told}"
        exc = ActivityTimedOutError(message, attempts=command.attempt, kind=kind)
        return self.after_failure(command, exc, details=body.details, stack=body.stack())

    def after_silence(self, command: RunActivity, deadline: int) -> ActivityFailed | ActivityRetried:
        """Return what follows an attempt that was handed over and that nobody has finished before its deadline."""
        settings = command.call.definition.settings
        total = settings.total_timeout
        kind, limit = "timeout", settings.timeout
        if total is not None and command.scheduled_at + total // _MICROSECOND <= deadline:
            kind, limit = "total_timeout", total
        told = "" if limit is None else f" ({limit.total_seconds()} s)"
        message = f"activity {command.activity_id}, to be finished from outside, ran out of its {kind}{told}"
        exc = ActivityTimedOutError(message, attempts=command.attempt, kind=kind)
        return self.after_failure(command, exc, details=command.details)


def hand_over_of(body: Body) -> ActivityHandedOver:
    """Return the release of a body that has ended, and leaves its attempt to be finished from outside."""
    command = body.command
    return ActivityHandedOver(
        command.activity_id, _encode(HandOver(command.attempt, body.deadline, _raw(body.details)))
    )


def _raw(details: bytes | None) -> msgspec.Raw:
    return NOTHING if details is None else msgspec.Raw(details)
