"""What a write means for instances other than the one that it was made for, on SQLite.

Closing an instance closes its subscriptions, sees to its children, and tells its parents. All of it happens in the
transaction that closes it.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, assert_never

import msgspec

from romancy.core.events import ChildEnd, EventKind
from romancy.core.failures import Failure, encode_failure
from romancy.core.records import InboxKind, Status
from romancy.core.requests import CancelChild, EndWait, ParentClosePolicy, Unsubscribe, Wait
from romancy.storage.rows import ChildRow, HistoryRow, MessageRow, Reach, Row, SubscriptionRow
from romancy.storage.sql import children, heartbeats, history, instances, messages, topics
from romancy.storage.waking import wake_for_mail

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from romancy.core.requests import Order

_encode = msgspec.json.Encoder().encode
_TERMINATED = "romancy.errors:WorkflowTerminatedError"


class Effects:
    """Write down what concerns other instances, and remember whom it has reached.

    Attributes:
        reached: The keys of open instances whose inboxes have got something.
        ended: The keys of the instances that were terminated.
        has_topics: Whether a topic may have something to hand out.
    """

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self._now = now
        self.reached: set[int] = set()
        self.ended: list[int] = []
        self.has_topics = False

    def put(self, row: Row, item: MessageRow, *, kind: InboxKind = InboxKind.MESSAGE) -> None:
        """Put an item into an inbox, with the inbox's next number, and make its instance claimable."""
        seq = row.inbox_seq + 1
        wake_at = wake_for_mail(row.status, row.wake_at, self._now, kind)
        self._connection.execute(instances.REACH, Reach(seq, wake_at, row.key))
        self._connection.execute(messages.INSERT, item._replace(key=row.key, seq=seq, kind=kind))
        self.reached.add(row.key)

    def obey(self, orders: Iterable[tuple[int, int, Order]]) -> None:
        """Do what entries have ordered, each for an instance and its run. Doing it again changes nothing."""
        connection = self._connection
        for key, run, order in orders:
            match order:
                case Wait(activity_id, channel, mailbox):
                    connection.execute(topics.WAIT, (channel, key, activity_id, mailbox))
                    self._set_pending(channel)
                case EndWait(activity_id):
                    connection.execute(topics.END_WAIT, (key, activity_id))
                case Unsubscribe(mailbox):
                    for row in self._subscriptions(key):
                        if row.mailbox == mailbox:
                            self._unsubscribe(row)
                case CancelChild(activity_id, reason, turn):
                    found = connection.execute(children.BY_ACTIVITY, (key, run, activity_id)).fetchone()
                    if found is not None:
                        self._cancel(found[0], reason, f"cancel/{key}/{run}/{activity_id}/{turn}")
                case _:
                    assert_never(order)

    def begin_run(self, key: int) -> None:
        """Drop what belongs to an instance's run when its next one begins: the waits of its receives."""
        self._connection.execute(topics.END_WAITS, (key,))

    def conclude(self, key: int, *, is_forced: bool = False) -> None:
        """Do what an instance's end means for others; its row and last event are written already.

        A child that goes on is cancelled, terminated or left, as its policy says. Termination is passed down: to what
        a terminated child has started and not abandoned, also if the child had ended before.

        Args:
            key: The instance that has ended.
            is_forced: Terminate the children whatever their policy is, unless they are abandoned.
        """
        seen = {key}
        todo = deque([(key, is_forced)])
        while todo:
            ending, is_forced = todo.popleft()
            for row in self._subscriptions(ending):
                self._unsubscribe(row)
            self._connection.execute(topics.END_WAITS, (ending,))
            for *link, parent_id, status in self._connection.execute(children.OF_PARENT, (ending,)).fetchall():
                child = ChildRow._make(link)
                if child.policy == ParentClosePolicy.ABANDON or child.child in seen:
                    continue
                reason = f"its parent {parent_id!r} has ended"
                is_terminated = is_forced or child.policy == ParentClosePolicy.TERMINATE
                if is_terminated:
                    seen.add(child.child)
                    todo.append((child.child, True))
                if status >= Status.COMPLETED:
                    continue
                if is_terminated:
                    self.terminate(child.child, encode_failure(Failure(_TERMINATED, reason)))
                else:
                    self._cancel(child.child, reason, f"parent/{ending}")
            self.tell_parents(ending)

    def tell_parents(self, child: int) -> None:
        """Tell the end of a child to those who have started it, or are attached to it, and do not know yet."""
        untold = [ChildRow._make(row) for row in self._connection.execute(children.UNTOLD_PARENTS, (child,))]
        if not untold:
            return
        row = self._row(child)
        last = self._connection.execute(history.LAST_PAYLOAD, (child, child)).fetchone()
        payload = msgspec.Raw(b"null" if last is None or last[0] is None else last[0])
        for link in untold:
            self._connection.execute(children.TELL, (link.parent, link.run, link.activity_id))
            parent = self._row(link.parent)
            if parent is None or row is None or parent.status >= Status.COMPLETED:
                continue
            item = MessageRow(
                parent.key,
                0,
                InboxKind.CHILD,
                link.activity_id,
                f"child/{link.run}/{link.activity_id}",
                row.id,
                _encode(ChildEnd(link.run, row.status, payload)),
                self._now,
            )
            self.put(parent, item, kind=InboxKind.CHILD)

    def terminate(self, key: int, failure: bytes) -> None:
        """End an open instance now, whoever owns it; what that means for others is `conclude`'s."""
        connection = self._connection
        run, seq = connection.execute(instances.PLACE, (key,)).fetchone()
        last = connection.execute(history.LAST_TURN, (key, run)).fetchone()
        turn = 1 + (0 if last is None else last[0])
        event = HistoryRow(key, run, seq, turn, self._now, EventKind.RUN_TERMINATED, None, failure)
        connection.execute(history.INSERT, event)
        connection.execute(instances.END, (Status.TERMINATED, self._now, key))
        connection.execute(heartbeats.DELETE, (key,))
        self.ended.append(key)

    def _cancel(self, key: int, reason: str, message_id: str) -> None:
        """Ask an instance to cancel; once for a message id, and not if it has ended."""
        row = self._row(key)
        delivery = (key, message_id)
        if row is None or row.status >= Status.COMPLETED:
            return
        if self._connection.execute(messages.IS_DELIVERED, delivery).fetchone() is None:
            self._connection.execute(messages.INSERT_DELIVERY, (*delivery, self._now))
            item = MessageRow(key, 0, InboxKind.CANCEL, None, message_id, None, _encode(reason), self._now)
            self.put(row, item, kind=InboxKind.CANCEL)

    def _subscriptions(self, key: int) -> list[SubscriptionRow]:
        found = self._connection.execute(topics.SUBSCRIPTIONS_OF, (json.dumps([key]),))
        return [SubscriptionRow._make(row) for row in found]

    def _unsubscribe(self, row: SubscriptionRow) -> None:
        """Close a subscription; what it holds unread of a competing topic returns to its place."""
        mailbox = (row.key, row.mailbox)
        self._connection.execute(topics.UNSUBSCRIBE, (row.channel, *mailbox))
        self._connection.execute(topics.END_WAITS_OF_MAILBOX, mailbox)
        if self._connection.execute(topics.RETURN, (row.channel, *mailbox)).rowcount:
            self._set_pending(row.channel)
        self._connection.execute(topics.DROP_MAILBOX, mailbox)

    def _set_pending(self, channel: str) -> None:
        self._connection.execute(topics.SET_PENDING, (channel,))
        self.has_topics = True

    def _row(self, key: int) -> Row | None:
        found = self._connection.execute(instances.ROW_BY_KEY, (key,)).fetchone()
        return None if found is None else Row._make(found)
