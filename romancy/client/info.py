"""What clients read of instances, as people read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import msgspec

from romancy.core.clock import MICROSECONDS
from romancy.core.events import EventKind
from romancy.core.failures import Failure, decode_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.events import Event
    from romancy.core.records import Instance

_TOO_LONG = 19
"""Digits of a key that would not fit into 64 bits."""


class InstanceInfo(msgspec.Struct, frozen=True):
    """How an instance stands. Instants are aware UTC datetimes.

    Attributes:
        id: The instance's id.
        workflow: Its workflow's name.
        version: Its workflow's version.
        status: ``pending``, ``running``, ``blocked``, ``completed``, ``failed``, ``cancelled``, ...
        run: The run's number, from 0, raised by recur.
        events: How many events the run has recorded.
        is_owned: Whether a worker holds it.
        wake_at: When it is next due; None: only a message can wake it, or it has ended.
        waiting_on: What it waits for, as far as it has been written: each with its ``kind`` and ``id``, ``since`` when,
            and according to its kind ``channel``, ``instance``, ``attempt`` and ``until``; instants are ISO 8601.
        unread: How many inbox rows its owner has not looked at.
        recoveries: How often its worker has died under it since it last got on.
        failure: Why it is blocked; None if it is not.
        deadline: When its time limit is reached; None: it has none.
        priority: From -2 to 2; a higher one is claimed first.
        custom_status: What its code has set by `set_custom_status`, as plain JSON types; None: nothing.
        tags: What it was started with and its code has set by `set_tags`.
        cursor: Where a listing goes on after it: ``client.list(after=info.cursor)``.
        created_at: When it was started.
        started_at: When its run began; None: not yet.
        closed_at: When it ended; None: not yet.
    """

    id: str
    workflow: str
    version: str
    status: str
    run: int
    events: int
    is_owned: bool
    wake_at: datetime | None
    waiting_on: list[dict[str, str]]
    unread: int
    recoveries: int
    failure: Failure | None
    priority: int
    custom_status: object
    tags: dict[str, str]
    cursor: str
    created_at: datetime
    started_at: datetime | None
    closed_at: datetime | None
    deadline: datetime | None = None


class RunInfo(msgspec.Struct, frozen=True):
    """A run of an instance whose history can be read.

    Attributes:
        run: Its number, from 0.
        closed_at: When `recur` closed it; None: it is the latest run.
    """

    run: int
    closed_at: datetime | None


class ChildInfo(msgspec.Struct, frozen=True):
    """A child that an instance has started, or is attached to.

    Attributes:
        id: The child's instance id.
        workflow: Its workflow's name.
        status: How it stands, as in `InstanceInfo`.
        run: The run of the parent that has started it.
        activity_id: Under which activity id.
        on_parent_close: What becomes of it when the parent ends first: ``cancel``, ``terminate`` or ``abandon``.
    """

    id: str
    workflow: str
    status: str
    run: int
    activity_id: str
    on_parent_close: str


class HistoryEvent(msgspec.Struct, frozen=True):
    """One recorded event of a run, for people; ``payload`` is the recorded JSON as text."""

    seq: int
    turn: int
    at: datetime
    kind: str
    activity_id: str | None
    payload: str | None


class SavedEvent(msgspec.Struct, frozen=True):
    """One event of a `SavedHistory`: as `HistoryEvent`, but ``payload`` is the JSON itself, and ``stamp`` is exact.

    ``stamp`` is the turn's time in epoch microseconds.
    """

    seq: int
    turn: int
    stamp: int
    at: datetime
    kind: str
    activity_id: str | None
    payload: msgspec.Raw


class SavedHistory(msgspec.Struct, frozen=True, kw_only=True):
    """A run's history with all that is needed to replay it elsewhere; what ``romancy history --json`` prints.

    Attributes:
        format: The version of this form: 1.
        id: The instance's id.
        workflow: Its workflow's name.
        version: Its workflow's version.
        status: How the instance stands.
        run: The run's number.
        execution_id: The start's random number, in hexadecimal.
        input: The run's arguments by name; null for a run that `recur` has closed: they are not kept.
        started_at: The first turn's time in epoch microseconds; None: it has not begun.
        deadline: The instance's time limit in epoch microseconds; None: it has none.
        drained: Up to which event the run has gone on; those from this number on are recorded only.
        runtime: What Python and anyio the run was recorded on.
        events: The events, in order.
    """

    format: int = 1
    id: str
    workflow: str
    version: str
    status: str
    run: int
    execution_id: str
    input: msgspec.Raw
    started_at: int | None
    deadline: int | None
    drained: int
    runtime: str | None
    events: list[SavedEvent]


def saved_history(instance: Instance, run: int, events: Sequence[Event]) -> SavedHistory:
    """Return a run's history as it is saved."""
    is_latest = run == instance.run
    return SavedHistory(
        id=instance.id,
        workflow=instance.workflow,
        version=instance.version,
        status=instance.status.name.lower(),
        run=run,
        execution_id=f"{instance.execution_id:016x}",
        input=msgspec.Raw(instance.input if is_latest else b"null"),
        started_at=instance.started_at if is_latest else (events[0].stamp if events else None),
        deadline=instance.deadline,
        drained=instance.drained_seq if is_latest else len(events),
        runtime=instance.runtime,
        events=[
            SavedEvent(
                event.seq,
                event.turn,
                event.stamp,
                instant(event.stamp),
                EventKind(event.kind).name.lower(),
                event.activity_id,
                msgspec.Raw(event.payload or b"null"),
            )
            for event in events
        ],
    )


def instant(stamp: int) -> datetime:
    """Return a stamp as an aware datetime."""
    return datetime.fromtimestamp(stamp / MICROSECONDS, UTC)


def _instant_or_none(stamp: int | None) -> datetime | None:
    return None if stamp is None else instant(stamp)


def key_of(cursor: str | None) -> int:
    """Return the key that a listing begins after.

    Raises:
        ValueError: It is no cursor.
    """
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < _TOO_LONG):
        msg = f"{cursor!r} is no cursor: pass the cursor of the last InstanceInfo of the page before"
        raise ValueError(msg)
    return int(cursor)


def check_limit(limit: int) -> None:
    """Raise `ValueError` if there is no page of such a size."""
    if limit < 1:
        msg = f"limit={limit!r}: a page has at least one item"
        raise ValueError(msg)


def info_of(instance: Instance) -> InstanceInfo:
    """Return a row as people read it."""
    waiting_on: object = msgspec.json.decode(instance.waiting_on) if instance.waiting_on else []
    return InstanceInfo(
        id=instance.id,
        workflow=instance.workflow,
        version=instance.version,
        status=instance.status.name.lower(),
        run=instance.run,
        events=instance.next_seq,
        is_owned=instance.session is not None,
        wake_at=_instant_or_none(instance.wake_at),
        waiting_on=cast("list[dict[str, str]]", waiting_on),
        unread=instance.inbox_seq - instance.inbox_seen,
        recoveries=instance.recoveries,
        failure=decode_failure(instance.reason) if instance.reason else None,
        priority=instance.priority,
        custom_status=msgspec.json.decode(instance.custom_status) if instance.custom_status else None,
        tags=msgspec.json.decode(instance.tags, type=dict[str, str]) if instance.tags else {},
        cursor=f"{instance.key:d}",
        created_at=instant(instance.created_at),
        started_at=_instant_or_none(instance.started_at),
        closed_at=_instant_or_none(instance.closed_at),
        deadline=_instant_or_none(instance.deadline),
    )
