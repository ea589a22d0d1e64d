"""What a commit does, decided without a database.

Storage locks and reads the rows that a batch of entries touches, `decide` says what becomes of them, storage
writes it. So both databases reject, number, send and wake alike. The protocol is described in
`romancy.storage.protocol.Storage.commit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import msgspec

from romancy.core.events import Event, SendOutcome
from romancy.core.records import LEAVE, Accepted, Entry, InboxKind, Rejected, Shown, Status
from romancy.core.requests import ChildOutcome, Order, ParentClosePolicy, Publish, Send, StartChild, Subscribe
from romancy.storage.entries import (
    OUTCOMES,
    events_of,
    holds,
    is_advance,
    is_freed_already,
    is_progress,
    is_recorded,
)
from romancy.storage.rows import (
    Advance,
    ArchiveRow,
    ChildRow,
    HistoryRow,
    MessageRow,
    Opening,
    Reach,
    Row,
    Settlement,
)
from romancy.storage.topics import Topics
from romancy.storage.waking import parked_until, wake_for_mail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from romancy.core.requests import Request
    from romancy.storage.rows import ChannelRow, SubscriptionRow


class Decision(msgspec.Struct, frozen=True):
    """What to answer and what to write; `answers` has one item per entry, in order.

    An instance is in one of `advances`, `settlements` and `reaches` at most; `openings` come on top of
    its settlement. `orders` are to be done after everything else has been written, each for an instance and its run;
    `closings` are the instances that end and whose end concerns others.
    """

    answers: list[Accepted | Rejected]
    events: list[HistoryRow]
    consumed: list[tuple[int, int]]
    messages: list[MessageRow]
    advances: list[Advance]
    settlements: list[Settlement]
    reaches: list[Reach]
    openings: list[Opening]
    topics: Topics
    children: list[ChildRow]
    orders: list[tuple[int, int, Order]]
    closings: list[int]
    silenced: list[tuple[int, int, str]] = []
    archives: list[ArchiveRow] = []
    shown: list[tuple[int, Shown]] = []


def has_mail(row: Row | _Draft) -> bool:
    """Say whether an inbox holds something that its owner has not seen and that still matters."""
    return row.status < Status.COMPLETED and row.inbox_seq > row.inbox_seen


def decide(
    session: int,
    entries: Sequence[Entry],
    rows: Mapping[int, Row],
    ids: Mapping[str, int],
    *,
    recorded: Mapping[int, Sequence[Event]],
    now: int,
    channels: Mapping[str, ChannelRow] | None = None,
    subscriptions: Iterable[SubscriptionRow] = (),
) -> Decision:
    """Decide what a batch of entries does. Pure.

    Entries take effect in order, sends included; whether a run may stay parked is looked at after all of
    them, so that mail which arrives in the same batch is never overlooked.

    Args:
        session: The committing session, known to be live.
        entries: At most one per instance.
        rows: By key, the locked rows of the entries' instances, of their sends' targets, and of the children that
            entries which hold start (those are inserted already, if their ids were free); an instance without a row
            does not exist.
        ids: By id, the keys of the sends' targets and of the children.
        recorded: By key, for entries that do not hold: the events of the entry's run that have the numbers
            which the entry would give to its own.
        now: The database's clock.
        channels: By name, the channels of the requests, as far as they exist.
        subscriptions: Those that the entries' instances have.
    """
    batch = _Batch(session, rows, ids, now, Topics(channels or {}, subscriptions))
    answers = [
        batch.apply(entry) if holds(session, entry, rows.get(entry.key)) else batch.recall(entry, recorded)
        for entry in entries
    ]
    for entry in batch.applied:
        batch.settle(entry)
    batch.reach()
    return Decision(
        [batch.answer(entry, answer) for entry, answer in zip(entries, answers, strict=True)],
        batch.events,
        batch.consumed,
        batch.messages,
        batch.advances,
        batch.settlements,
        batch.reaches,
        batch.openings,
        batch.topics,
        batch.children,
        [(entry.key, entry.run, order) for entry in batch.applied for order in entry.orders],
        [entry.key for entry in batch.applied if entry.status.is_closed and rows[entry.key].ties],
        batch.silenced,
        batch.archives,
        batch.shown,
    )


class _Draft(msgspec.Struct):
    """A row as the batch has left it so far; `row` is what it was."""

    row: Row
    session: int | None
    status: int
    next_seq: int
    drained_seq: int
    wake_at: int | None
    inbox_seq: int
    inbox_seen: int
    recoveries: int

    @property
    def has_moved(self) -> bool:
        """Whether a column has changed that an index contains."""
        row = self.row
        return (
            self.wake_at != row.wake_at
            or self.inbox_seq != row.inbox_seq
            or self.inbox_seen != row.inbox_seen
            or self.session != row.session
            or self.status != row.status
        )


class _Batch:
    """What the entries of one batch have done to the rows so far."""

    def __init__(self, session: int, rows: Mapping[int, Row], ids: Mapping[str, int], now: int, topics: Topics) -> None:
        self.session = session
        self.topics = topics
        self.children: list[ChildRow] = []
        self.rows = rows
        self.ids = ids
        self.now = now
        self.drafts: dict[int, _Draft] = {}
        self.applied: list[Entry] = []
        self.events: list[HistoryRow] = []
        self.consumed: list[tuple[int, int]] = []
        self.messages: list[MessageRow] = []
        self.advances: list[Advance] = []
        self.settlements: list[Settlement] = []
        self.reaches: list[Reach] = []
        self.openings: list[Opening] = []
        self.silenced: list[tuple[int, int, str]] = []
        self.archives: list[ArchiveRow] = []
        self.shown: list[tuple[int, Shown]] = []

    def apply(self, entry: Entry) -> list[Event]:
        """Take an entry that holds; return its requests' outcomes."""
        draft = self._draft(entry.key)
        self.applied.append(entry)
        self.events += events_of(entry)
        self.consumed += [(entry.key, seq) for seq in entry.consumed]
        if entry.silenced:
            self.silenced += [(entry.key, entry.run, activity_id) for activity_id in entry.silenced]
        seq = entry.seq + len(entry.notes)
        outcomes = [
            Event(
                number,
                entry.turn + 1,
                entry.stamp,
                OUTCOMES[type(request)],
                request.activity_id,
                self._outcome(entry, draft.row.id, request),
            )
            for number, request in enumerate(entry.requests, seq)
        ]
        self.events += [HistoryRow(entry.key, entry.run, *event) for event in outcomes]
        draft.next_seq = seq + len(outcomes)
        draft.drained_seq = seq - entry.undrained
        if draft.status != Status.PAUSED or entry.status.is_closed:
            draft.status = entry.status  # a pause stays until it is taken back, whatever turn was under way
        draft.inbox_seen = max(draft.inbox_seen, entry.inbox_seen)
        if entry.shown is not None:
            self.shown.append((entry.key, entry.shown))
        if is_progress(entry, self.now):
            draft.recoveries = 0
        return outcomes

    def recall(self, entry: Entry, recorded: Mapping[int, Sequence[Event]]) -> list[Event] | Rejected:
        """Take an entry that does not hold; return its requests' outcomes if it was written before."""
        row = self.rows.get(entry.key)
        if row is None:
            return Rejected("the instance is gone")
        if row.execution_id != entry.execution_id:
            return Rejected("the instance was started anew")
        events = recorded.get(entry.key, ())
        if is_recorded(entry, events) or is_freed_already(entry, row):
            return list(events[len(entry.notes) :])
        if row.status >= Status.COMPLETED:
            return Rejected("the instance has ended")
        if row.session != self.session:
            return Rejected(f"the instance is owned by session {row.session}, not {self.session}")
        return Rejected(
            f"the instance stands at run {row.run}, event {row.next_seq}, not at run {entry.run}, event {entry.seq}"
        )

    def settle(self, entry: Entry) -> None:
        """Compare and write down an instance whose entry holds, after all sends of the batch."""
        draft = self._draft(entry.key)
        is_closed = entry.status.is_closed
        draft.wake_at = parked_until(entry, draft.wake_at, self.now, is_mailed=has_mail(draft))
        if is_closed or entry.is_freed:
            draft.session = None
        if (following := entry.next_run) is not None:
            draft.next_seq = draft.drained_seq = 0
            self.archives.append(ArchiveRow(entry.key, entry.run, self.now))
            self.openings.append(
                Opening(
                    entry.run + 1,
                    following.workflow,
                    following.version,
                    following.input,
                    entry.stamp,
                    entry.key,
                )
            )
        if is_advance(entry) and not draft.has_moved:
            self.advances.append(Advance(draft.next_seq, draft.drained_seq, draft.recoveries, entry.key))
            return
        self.settlements.append(
            Settlement(
                draft.session,
                draft.status,
                draft.next_seq,
                draft.drained_seq,
                draft.wake_at,
                draft.inbox_seq,
                draft.inbox_seen,
                draft.recoveries,
                is_closed or entry.wake_at != LEAVE,
                None if is_closed else entry.waiting_on,
                entry.reason,
                entry.build,
                entry.stamp if is_closed else None,
                entry.key,
            )
        )

    def reach(self) -> None:
        """Write down the instances that have no entry here, but got mail."""
        own = {entry.key for entry in self.applied}
        self.reaches += [
            Reach(draft.inbox_seq, draft.wake_at, key)
            for key, draft in self.drafts.items()
            if key not in own and draft.has_moved
        ]

    def answer(self, entry: Entry, outcomes: list[Event] | Rejected) -> Accepted | Rejected:
        """Tell an entry's owner what has become of it, after the whole batch."""
        if isinstance(outcomes, Rejected):
            return outcomes
        draft = self._draft(entry.key)
        is_mailed, is_paused = has_mail(draft), draft.row.status == Status.PAUSED
        if not outcomes and not entry.orders:
            return Accepted(outcomes, is_mailed, is_paused=is_paused)
        reached = dict.fromkeys(
            key
            for request, event in zip(entry.requests, outcomes, strict=True)
            if (key := self._reached(request, event)) is not None
        )
        reached.pop(entry.key, None)
        has_topics = bool(entry.orders) or any(isinstance(request, Publish | Subscribe) for request in entry.requests)
        return Accepted(outcomes, is_mailed, tuple(reached), has_topics, is_paused)

    def _reached(self, request: Request, event: Event) -> int | None:
        """Return the key of the instance that a request has reached or created."""
        if event.payload != _DONE:
            return None
        match request:
            case Send(to=id) | StartChild(id=id):
                return self.ids.get(id)
            case _:
                return None

    def _draft(self, key: int) -> _Draft:
        draft = self.drafts.get(key)
        if draft is None:
            row = self.rows[key]
            draft = self.drafts[key] = _Draft(
                row,
                row.session,
                row.status,
                row.next_seq,
                row.drained_seq,
                row.wake_at,
                row.inbox_seq,
                row.inbox_seen,
                row.recoveries,
            )
        return draft

    def _outcome(self, entry: Entry, sender: str, request: Request) -> bytes:
        """Evaluate a request; return its outcome as it is recorded."""
        match request:
            case Send():
                return b"%d" % self._send(sender, request)
            case Publish():
                return b"%d" % self.topics.publish(request, sender, self.now)
            case Subscribe():
                return _json(self.topics.subscribe(request, entry.key, entry.run))
            case StartChild():
                return b"%d" % self._start_child(entry, request)
            case _:
                assert_never(request)

    def _start_child(self, entry: Entry, request: StartChild) -> ChildOutcome:
        key = self.ids[request.id]
        is_new = self.rows[key].execution_id == request.execution_id
        if not is_new and (not request.is_attaching or key == entry.key):
            return ChildOutcome.EXISTS
        policy = request.policy if is_new else ParentClosePolicy.ABANDON  # it belongs to whoever has started it
        self.children.append(ChildRow(entry.key, entry.run, request.activity_id, key, policy))
        return ChildOutcome.STARTED if is_new else ChildOutcome.ATTACHED

    def _send(self, sender: str, outgoing: Send) -> SendOutcome:
        if not self.topics.admits_send(outgoing.channel):
            return SendOutcome.OTHER_MODE
        key = self.ids.get(outgoing.to)
        if key is None or key not in self.rows:
            return SendOutcome.NOT_FOUND
        target = self._draft(key)
        if target.status >= Status.COMPLETED:
            return SendOutcome.CLOSED
        self.topics.sent(outgoing.channel)
        target.inbox_seq += 1
        target.wake_at = wake_for_mail(target.status, target.wake_at, self.now)
        self.messages.append(
            MessageRow(
                key,
                target.inbox_seq,
                InboxKind.MESSAGE,
                outgoing.channel,
                outgoing.message_id,
                sender,
                outgoing.body,
                self.now,
                outgoing.headers,
            )
        )
        return SendOutcome.SENT


_DONE = b"%d" % SendOutcome.SENT
_json = msgspec.json.Encoder().encode
