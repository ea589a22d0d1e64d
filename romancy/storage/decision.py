"""What a commit does, decided without a database.

Storage locks and reads the rows that a batch of entries touches, `decide` says what becomes of them, storage
writes it. So both databases reject, number, send and wake alike. The protocol is described in
`romancy.storage.protocol.Storage.commit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from romancy.core.events import Event, EventKind, SendOutcome
from romancy.core.records import LEAVE, Accepted, Entry, InboxKind, Rejected, Status
from romancy.storage.rows import Advance, HistoryRow, MessageRow, Opening, Reach, Row, Settlement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from romancy.core.records import Outgoing


class Decision(msgspec.Struct, frozen=True):
    """What to answer and what to write; `answers` has one item per entry, in order.

    An instance is in one of `advances`, `settlements` and `reaches` at most; `openings` come on top of
    its settlement.
    """

    answers: list[Accepted | Rejected]
    events: list[HistoryRow]
    consumed: list[tuple[int, int]]
    messages: list[MessageRow]
    advances: list[Advance]
    settlements: list[Settlement]
    reaches: list[Reach]
    openings: list[Opening]


def wake_for_mail(status: int, wake_at: int | None, now: int, kind: InboxKind = InboxKind.MESSAGE) -> int | None:
    """Return when an instance is claimable after something has reached its inbox.

    That is now, or earlier if it is due already, so that mail never costs an instance its place in the queue.
    A message does not start a pending instance before its time; a cancel does, because it must reach it.
    """
    if status == Status.PENDING and kind is InboxKind.MESSAGE:
        return wake_at
    return now if wake_at is None or wake_at > now else wake_at


def parked_until(entry: Entry, wake_at: int | None, now: int, *, is_mailed: bool) -> int | None:
    """Return when an entry's instance is claimable after it; ``wake_at`` is when it was before."""
    if entry.status.is_closed:
        return None
    if entry.wake_at != LEAVE:
        wake_at = entry.wake_at
    elif not entry.is_freed:
        return wake_at
    if is_mailed:
        return wake_for_mail(entry.status, wake_at, now)
    return wake_at


def is_advance(entry: Entry) -> bool:
    """Say whether an entry by itself leaves every indexed column as it is."""
    return entry.status is Status.RUNNING and entry.wake_at == LEAVE and not entry.is_freed


def holds(session: int, entry: Entry, row: Row | None) -> bool:
    """Say whether an entry's instance is where the entry's turn began, and still the session's."""
    return (
        row is not None
        and row.next_seq == entry.seq
        and row.session == session
        and row.execution_id == entry.execution_id
        and row.run == entry.run
        and row.status < Status.COMPLETED
    )


def has_mail(row: Row | _Draft) -> bool:
    """Say whether an inbox holds something that its owner has not seen and that still matters."""
    return row.status < Status.COMPLETED and row.inbox_seq > row.inbox_seen


def events_of(entry: Entry) -> list[HistoryRow]:
    """Give the events that an entry's turn has noted their places in history."""
    key, run, turn, stamp = entry.key, entry.run, entry.turn, entry.stamp
    return [
        HistoryRow(key, run, seq, turn, stamp, kind, activity_id, payload)
        for seq, (kind, activity_id, payload) in enumerate(entry.notes, entry.seq)
    ]


def decide(
    session: int,
    entries: Sequence[Entry],
    rows: Mapping[int, Row],
    ids: Mapping[str, int],
    *,
    recorded: Mapping[int, Sequence[Event]],
    now: int,
) -> Decision:
    """Decide what a batch of entries does. Pure.

    Entries take effect in order, sends included; whether a run may stay parked is looked at after all of
    them, so that mail which arrives in the same batch is never overlooked.

    Args:
        session: The committing session, known to be live.
        entries: At most one per instance.
        rows: By key, the locked rows of the entries' instances and of their sends' targets; an instance
            without a row does not exist.
        ids: By id, the keys of the sends' targets.
        recorded: By key, for entries that do not hold: the events of the entry's run that have the numbers
            which the entry would give to its own.
        now: The database's clock.
    """
    batch = _Batch(session, rows, ids, now)
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

    def __init__(self, session: int, rows: Mapping[int, Row], ids: Mapping[str, int], now: int) -> None:
        self.session = session
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

    def apply(self, entry: Entry) -> list[Event]:
        """Take an entry that holds; return its sends' outcomes."""
        draft = self._draft(entry.key)
        self.applied.append(entry)
        self.events += events_of(entry)
        self.consumed += [(entry.key, seq) for seq in entry.consumed]
        seq = entry.seq + len(entry.notes)
        sent = [
            Event(
                number,
                entry.turn + 1,
                entry.stamp,
                EventKind.MESSAGE_SENT,
                outgoing.activity_id,
                b"%d" % self._send(draft.row.id, outgoing),
            )
            for number, outgoing in enumerate(entry.sends, seq)
        ]
        self.events += [HistoryRow(entry.key, entry.run, *event) for event in sent]
        draft.next_seq = seq + len(sent)
        draft.drained_seq = seq - entry.undrained
        draft.status = entry.status
        draft.inbox_seen = max(draft.inbox_seen, entry.inbox_seen)
        if draft.next_seq > entry.seq:
            draft.recoveries = 0
        return sent

    def recall(self, entry: Entry, recorded: Mapping[int, Sequence[Event]]) -> list[Event] | Rejected:
        """Take an entry that does not hold; return its sends' outcomes if it was written before."""
        row = self.rows.get(entry.key)
        if row is None:
            return Rejected("the instance is gone")
        if row.execution_id != entry.execution_id:
            return Rejected("the instance was started anew")
        events = recorded.get(entry.key, ())
        if _is_recorded(entry, events) or _is_freed_already(entry, row):
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

    def answer(self, entry: Entry, sent: list[Event] | Rejected) -> Accepted | Rejected:
        """Tell an entry's owner what has become of it, after the whole batch."""
        if isinstance(sent, Rejected):
            return sent
        is_mailed = has_mail(self._draft(entry.key))
        if not sent:
            return Accepted(sent, is_mailed)
        reached = {
            self.ids[outgoing.to]: None
            for outgoing, event in zip(entry.sends, sent, strict=True)
            if event.payload == _SENT and outgoing.to in self.ids
        }
        reached.pop(entry.key, None)
        return Accepted(sent, is_mailed, tuple(reached))

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

    def _send(self, sender: str, outgoing: Outgoing) -> SendOutcome:
        key = self.ids.get(outgoing.to)
        if key is None or key not in self.rows:
            return SendOutcome.NOT_FOUND
        target = self._draft(key)
        if target.status >= Status.COMPLETED:
            return SendOutcome.CLOSED
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
            )
        )
        return SendOutcome.SENT


_SENT = b"%d" % SendOutcome.SENT


def _is_recorded(entry: Entry, events: Sequence[Event]) -> bool:
    """Say whether these are the entry's own events, written by an attempt whose acknowledgement was lost."""
    if not events or len(events) != len(entry.notes) + len(entry.sends):
        return False
    if entry.notes:
        return events[0] == Event(entry.seq, entry.turn, entry.stamp, *entry.notes[0])
    first = events[0]
    return (first.seq, first.turn, first.stamp, first.kind, first.activity_id) == (
        entry.seq,
        entry.turn + 1,
        entry.stamp,
        EventKind.MESSAGE_SENT,
        entry.sends[0].activity_id,
    )


def _is_freed_already(entry: Entry, row: Row) -> bool:
    """Say whether an entry without events has freed its instance before.

    Nothing but the owner's own entry frees an instance of a live session and leaves it open.
    """
    return (
        entry.is_freed
        and not entry.notes
        and not entry.sends
        and row.session is None
        and row.status < Status.COMPLETED
        and (row.run, row.next_seq) == (entry.run, entry.seq)
    )
