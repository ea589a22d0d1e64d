"""Rows as values: what the shell and storage hand to each other. Instants are epoch microseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import msgspec

from romancy.core.events import Event, Note
from romancy.core.requests import Order, Request


class Status(IntEnum):
    """Say how an instance stands. The numbers are stored; everything from COMPLETED on has ended."""

    PENDING = 0
    RUNNING = 1
    PAUSED = 2
    BLOCKED = 3
    COMPLETED = 10
    FAILED = 11
    CANCELLED = 12
    TERMINATED = 13
    TIMED_OUT = 14

    @property
    def is_closed(self) -> bool:
        """Whether the instance has ended."""
        return self >= Status.COMPLETED


LEAVE = -1
"""`Entry.wake_at`: leave the column as it is."""


class InboxKind(IntEnum):
    """Say what an inbox row is. The numbers are stored."""

    MESSAGE = 1
    CANCEL = 2
    ACTIVITY = 3
    CHILD = 4


class NewInstance(msgspec.Struct, frozen=True):
    """An instance to be created. ``input`` is encoded; ``execution_id`` is a random 62-bit number.

    With a ``session`` that is live it is created as owned by it: RUNNING, and begun now.
    Of what is due, a higher ``priority`` is claimed first.
    """

    id: str
    execution_id: int
    workflow: str
    version: str
    input: bytes
    wake_at: int
    trace_context: str | None = None
    session: int | None = None
    parent: int | None = None
    deadline: int | None = None
    priority: int = 0
    tags: Mapping[str, str] = {}


class Instance(msgspec.Struct, frozen=True):
    """An instance's row.

    ``deadline`` is its time limit, ``custom_status`` and ``tags`` are JSON, ``begun_by`` is the build that began the
    run.
    """

    key: int
    id: str
    execution_id: int
    workflow: str
    version: str
    status: Status
    run: int
    next_seq: int
    drained_seq: int
    input: bytes
    session: int | None
    wake_at: int | None
    inbox_seq: int
    inbox_seen: int
    waiting_on: bytes | None
    reason: bytes | None
    build: str | None
    runtime: str | None
    recoveries: int
    trace_context: str | None
    created_at: int
    started_at: int | None
    closed_at: int | None
    deadline: int | None = None
    priority: int = 0
    custom_status: bytes | None = None
    tags: str | None = None
    begun_by: str | None = None


class KeptRun(msgspec.Struct, frozen=True):
    """A run that recur has closed and whose history is still kept."""

    run: int
    closed_at: int


class InboxItem(msgspec.Struct, frozen=True):
    """One unread row of an instance's inbox.

    ``body`` is an encoded message, cancel reason, `OutsideAnswer` or `ChildEnd`.

    ``channel`` is the mailbox that a message is for, or the activity id of a child. ``at`` is when the row arrived, by
    the database's clock, and ``sent_at`` when a message was published to its topic, if it was.
    """

    seq: int
    kind: InboxKind
    channel: str | None
    message_id: str
    sender: str | None
    body: bytes
    at: int
    headers: bytes | None = None
    sent_at: int | None = None


class Heartbeat(msgspec.Struct, frozen=True):
    """The encoded details that an attempt at an activity has given last."""

    key: int
    execution_id: int
    run: int
    activity_id: str
    attempt: int
    details: bytes


class Elder(msgspec.Struct, frozen=True):
    """The oldest live session, and the process of its worker, as its `SessionInfo` names it."""

    session: int
    process: str


class Standing(msgspec.Struct, frozen=True):
    """How an instance stands; with its latest run's workflow and version, and once it has ended, its last payload."""

    status: Status
    workflow: str
    version: str
    payload: bytes | None = None


class OpenCounts(msgspec.Struct, frozen=True):
    """How many instances have not ended: by status (one that none has is missing), and how many nobody owns."""

    by_status: dict[Status, int]
    cold: int


class Claim(msgspec.Struct, frozen=True):
    """An instance that a session now owns, with all that is needed to go on with it.

    ``history`` is the current run's, ordered by seq; ``inbox`` is the whole inbox, ordered by seq;
    ``heartbeats`` are the current run's.
    ``instance`` is the row after the claim: `inbox_seen` equals `inbox_seq`. ``is_first``: nobody has had it before.
    """

    instance: Instance
    history: list[Event]
    inbox: list[InboxItem]
    heartbeats: Sequence[Heartbeat] = ()
    is_first: bool = False


class Claims(msgspec.Struct, frozen=True):
    """What a claim found; ``next_due`` is when the earliest instance that is not yet due will be, if any."""

    claims: list[Claim]
    next_due: int | None


class Mail(msgspec.Struct, frozen=True):
    """New inbox rows of an instance that the asking session owns; ``inbox_seq`` is its newest number.

    Without any items it is the instance's ``status`` that has changed: it is paused, or goes on.
    """

    key: int
    execution_id: int
    inbox_seq: int
    items: list[InboxItem]
    status: Status = Status.RUNNING


class Post(msgspec.Struct, frozen=True):
    """Something for an instance's inbox, sent from outside.

    ``message_id`` makes it idempotent: the second post of an id to the same start is accepted and does nothing.
    With an ``execution_id`` it is for that start alone, and not found by another one under the id.
    """

    to: str
    kind: InboxKind
    channel: str | None
    body: bytes
    message_id: str
    sender: str | None = None
    headers: bytes | None = None
    execution_id: int | None = None


class Publication(msgspec.Struct, frozen=True):
    """A message for a channel's topic, published from outside; ``message_id`` makes it idempotent."""

    channel: str
    body: bytes
    message_id: str
    headers: bytes | None = None


class HandedOut(msgspec.Struct, frozen=True):
    """What one look at the topics has done: the keys of the instances reached, and whether there is more to do."""

    reached: list[int]
    has_more: bool


class Creation(msgspec.Struct, frozen=True):
    """What became of a start: the instance as it stands, and whether this call created it."""

    instance: Instance
    is_new: bool


class InstanceFilter(msgspec.Struct, frozen=True):
    """Which instances to list; None admits every value.

    An instance must have all of the ``tags``, and exactly this ``custom_status``, in the canonical JSON that is stored.
    """

    workflow: str | None = None
    statuses: frozenset[Status] | None = None
    id_prefix: str | None = None
    tags: Mapping[str, str] = {}
    custom_status: bytes | None = None


class PostResult(IntEnum):
    """What became of a post."""

    POSTED = 0
    CLOSED = 1
    NOT_FOUND = 2
    DUPLICATE = 3
    OTHER_MODE = 4


class ChildLink(msgspec.Struct, frozen=True):
    """A child of an instance: the run and the activity id that it was started under, and how it stands.

    ``policy`` is a `romancy.core.requests.ParentClosePolicy`.
    """

    run: int
    activity_id: str
    key: int
    id: str
    workflow: str
    status: Status
    policy: str


class Branch(msgspec.Struct, frozen=True):
    """A history that goes on in another way from one of its events on.

    It holds only if the run still stands as it did when it was read.

    Attributes:
        key: The instance whose history it is.
        execution_id: Its start.
        run: The run.
        next_seq: How many events the run has recorded.
        cut: How many of them are kept, from the first on.
        kept: The last of these, as it was read; None: none are kept.
        events: What follows those, in order: the next turn, which has yet to be computed.
        open_children: The activity ids of the children that had been started and not ended.
        lost_children: Those of children that had been started after the cut.
        subscriptions: The channels and mailboxes that the run had subscribed to.
        letters: The messages that the run had received after the cut. Their numbers are not used.
        deadline: The instance's time limit from now on; None: it has none.
    """

    key: int
    execution_id: int
    run: int
    next_seq: int
    cut: int
    events: Sequence[Event]
    open_children: Sequence[str] = ()
    lost_children: Sequence[str] = ()
    subscriptions: Sequence[tuple[str, str]] = ()
    letters: Sequence[InboxItem] = ()
    deadline: int | None = None
    kept: Event | None = None


class NextRun(msgspec.Struct, frozen=True):
    """The run that follows when an entry ends in recur."""

    workflow: str
    version: str
    input: bytes


class Shown(msgspec.Struct, frozen=True):
    """What a turn shows of its run to clients; None leaves what was shown before.

    Attributes:
        custom_status: JSON, in canonical form.
        tags: Tags to set by name; those with None are removed, the others stay.
    """

    custom_status: bytes | None = None
    tags: Mapping[str, str | None] | None = None


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one turn commits: its events and everything that it asks for, all or nothing.

    The entry holds only if the instance is still owned by the committing session, with this
    ``execution_id``, ``run`` and ``next_seq == seq``.

    Attributes:
        notes: The events, in order; they take the numbers from ``seq`` on.
        undrained: How many of the last ``notes`` have not been computed yet (a blocked run keeps its results
            so); 0 for an ordinary turn.
        consumed: Inbox rows that the turn has released; they are deleted.
        requests: Evaluated by the commit, in order; their outcomes follow ``notes`` as events of turn ``turn + 1``
            with the same stamp, and are undrained.
        orders: Done by the commit, in order, after the requests of the whole batch.
        status: The instance's status afterwards.
        wake_at: When the instance is next claimable; None: only its inbox can wake it; `LEAVE`: untouched.
        inbox_seen: Up to where the owner has looked at the inbox.
        is_freed: Give up ownership in the same commit.
        waiting_on: For people: what the run waits for, as JSON; written when ``wake_at`` is.
        reason: Why a blocked run is blocked, as an encoded `Failure`.
        build: The build that blocked it.
        next_run: The run that recur opens; ``status`` is then RUNNING.
        silenced: Activities that have ended, or whose attempt has: their heartbeats are deleted.
        shown: What clients can read and filter by from now on.
    """

    key: int
    execution_id: int
    run: int
    seq: int
    turn: int
    stamp: int
    notes: list[Note]
    consumed: Sequence[int]
    requests: Sequence[Request]
    status: Status
    wake_at: int | None
    inbox_seen: int
    undrained: int = 0
    is_freed: bool = False
    waiting_on: bytes | None = None
    reason: bytes | None = None
    build: str | None = None
    next_run: NextRun | None = None
    orders: Sequence[Order] = ()
    silenced: Sequence[str] = ()
    shown: Shown | None = None


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """An entry that is written; ``outcomes`` are those of its requests as recorded events, in order.

    ``mailed`` says that the inbox holds rows that the owner has not seen, and ``recipients`` are the keys of other
    instances that the entry has reached or created. ``has_topics`` says that a topic may have something to hand out,
    ``is_paused`` that the instance was paused meanwhile: nothing that the entry's turn asks for is to begin.
    ``ended`` are the keys of other instances that the entry, by closing its own, has terminated.
    """

    outcomes: list[Event]
    mailed: bool = False
    recipients: tuple[int, ...] = ()
    has_topics: bool = False
    is_paused: bool = False
    ended: tuple[int, ...] = ()


class Rejected(msgspec.Struct, frozen=True):
    """An entry that does not hold any more: its instance moved on without this session."""

    reason: str


class Refused(msgspec.Struct, frozen=True):
    """An entry that the database refuses (a constraint, a size); nothing of it is written."""

    error: str


class Undone(msgspec.Struct, frozen=True):
    """A transaction that has certainly been rolled back instead of committed, and why."""

    error: Exception


class SessionInfo(msgspec.Struct, frozen=True):
    """What a worker tells of itself: its build, the (workflow, version) pairs that it serves, what it runs on.

    ``process`` is a token by which workers of the same machine can tell whether it has ended.
    """

    build: str
    definitions: list[tuple[str, str]]
    runtime: str = ""
    host: str = ""
    pid: int = 0
    process: str = ""
