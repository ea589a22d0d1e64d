"""What is replied: the public form of instances, results and histories."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from romancy.client.info import HistoryEvent, InstanceInfo
    from romancy.core.failures import Failure
    from romancy.errors import WorkflowBlockedError, WorkflowFailedError


class FailureAnswer(msgspec.Struct, frozen=True):
    """What an instance failed with: the exception's class and message. Tracebacks are not given away."""

    type: str
    message: str


class InstanceAnswer(msgspec.Struct, frozen=True):
    """How an instance stands; see `romancy.InstanceInfo`."""

    id: str
    workflow: str
    version: str
    status: str
    run: int
    events: int
    is_owned: bool
    waiting_on: list[dict[str, str]]
    unread: int
    recoveries: int
    priority: int
    custom_status: object
    tags: dict[str, str]
    cursor: str
    created_at: datetime
    started_at: datetime | None
    closed_at: datetime | None
    wake_at: datetime | None
    deadline: datetime | None
    failure: FailureAnswer | None


class Page(msgspec.Struct, frozen=True):
    """Some instances; ``next`` is what to give as ``after`` for those that follow, null: there are none."""

    instances: list[InstanceAnswer]
    next: str | None


class Started(msgspec.Struct, frozen=True):
    """An instance that was started, or that has the id already."""

    id: str


class ResultAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an instance ended, or that it goes on.

    Attributes:
        id: The instance's id.
        status: As in `InstanceAnswer`; ``completed`` alone comes with a ``result``.
        result: What the workflow returned.
        failure: What it failed with, or why it is blocked.
    """

    id: str
    status: str
    result: msgspec.Raw = msgspec.Raw()
    failure: FailureAnswer | None = None


class EventAnswer(msgspec.Struct, frozen=True):
    """One recorded event; ``payload`` is what was recorded, null if there is nothing."""

    seq: int
    turn: int
    at: datetime
    kind: str
    activity_id: str | None
    payload: msgspec.Raw


class CancelWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why an instance is to cancel, and after how many seconds it is terminated if it has not; null: never."""

    reason: str = ""
    grace: float | None = None


def instance(info: InstanceInfo) -> InstanceAnswer:
    """Return how an instance stands."""
    given = {name: getattr(info, name) for name in InstanceAnswer.__struct_fields__ if name != "failure"}
    return InstanceAnswer(**given, failure=_failure(info.failure))


def event(recorded: HistoryEvent) -> EventAnswer:
    """Return a recorded event."""
    return EventAnswer(
        recorded.seq,
        recorded.turn,
        recorded.at,
        recorded.kind,
        recorded.activity_id,
        msgspec.Raw(b"null" if recorded.payload is None else recorded.payload.encode()),
    )


def completed(id: str, result: bytes) -> ResultAnswer:
    """Return the result of an instance."""
    return ResultAnswer(id, "completed", msgspec.Raw(result))


def going_on(id: str, status: str) -> ResultAnswer:
    """Return that an instance has no result yet."""
    return ResultAnswer(id, status)


def blocked(id: str, error: WorkflowBlockedError) -> ResultAnswer:
    """Return that an instance can't go on with the deployed code."""
    return ResultAnswer(id, "blocked", failure=FailureAnswer("WorkflowBlockedError", error.reason))


def ended_badly(id: str, error: WorkflowFailedError) -> ResultAnswer:
    """Return that an instance has ended without a result."""
    return ResultAnswer(id, error.status, failure=_failure(error.failure))


def _failure(failure: Failure | None) -> FailureAnswer | None:
    return None if failure is None else FailureAnswer(failure.type.partition(":")[2], failure.message)
