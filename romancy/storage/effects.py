"""What a write means for instances other than the one that it was made for.

Closing an instance closes its subscriptions, sees to its children, and tells its parents. All of it happens in the
transaction that closes it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, assert_never

import msgspec

from romancy.core.events import ChildEnd, EventKind
from romancy.core.failures import Failure, encode_failure
from romancy.core.records import InboxKind, Status
from romancy.core.requests import CancelChild, EndWait, ParentClosePolicy, Unsubscribe, Wait
from romancy.storage.rows import ChildRow, HistoryRow, MessageRow, Reach, Row, SubscriptionRow
from romancy.storage.sql import children, heartbeats, history, instances, messages, topics
from romancy.storage.waking import with_mail

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.core.requests import Order
    from romancy.storage.tx import Tx

_encode = msgspec.json.Encoder().encode
_TERMINATED = "romancy.errors:WorkflowTerminatedError"


class Effects:
    """Write down what concerns other instances, and remember whom it has reached.

    Attributes:
        reached: The keys of open instances whose inboxes have got something.
        ended: The keys of the instances that were terminated.
        has_topics: Whether a topic may have something to hand out.
    """

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.reached: set[int] = set()
        self.ended: list[int] = []
        self.has_topics = False

    async def put(self, row: Row, item: MessageRow, *, kind: InboxKind = InboxKind.MESSAGE) -> Row:
        """Put an item into the inbox of a locked instance, with its next number, and make the instance claimable.

        Returns:
            The instance's row as it is now.
        """
        row = with_mail(row, self._tx.now, kind)
        await self._tx.write(
            (instances.REACH, [Reach(row.inbox_seq, row.wake_at, row.key)]),
            (messages.INSERT, [item._replace(key=row.key, seq=row.inbox_seq, kind=kind)]),
        )
        self.reached.add(row.key)
        return row

    async def obey(self, orders: Iterable[tuple[int, int, Order]]) -> None:
        """Do what entries have ordered, each for an instance and its run. Doing it again changes nothing."""
        tx = self._tx
        for key, run, order in orders:
            match order:
                case Wait(activity_id, channel, mailbox):
                    await tx.run(topics.WAIT, channel, key, activity_id, mailbox)
                    await self._set_pending(channel)
                case EndWait(activity_id):
                    await tx.run(topics.END_WAIT, key, activity_id)
                case Unsubscribe(mailbox):
                    for row in await self._subscriptions(key):
                        if row.mailbox == mailbox:
                            await self._unsubscribe(row)
                case CancelChild(activity_id, reason, turn):
                    found = await tx.row(children.BY_ACTIVITY, key, run, activity_id)
                    if found is not None:
                        await self._cancel(found[0], reason, f"cancel/{key}/{run}/{activity_id}/{turn}")
                case _:
                    assert_never(order)

    async def begin_run(self, key: int) -> None:
        """Drop what belongs to an instance's run when its next one begins: the waits of its receives."""
        await self._tx.run(topics.END_WAITS, key)

    async def conclude(self, key: int, *, is_forced: bool = False) -> None:
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
            for row in await self._subscriptions(ending):
                await self._unsubscribe(row)
            await self._tx.run(topics.END_WAITS, ending)
            links = [ChildRow._make(link) for link in await self._tx.rows(children.OF_PARENT, ending)]
            kept = [link for link in links if link.policy != ParentClosePolicy.ABANDON]
            rows = await self._tx.lock([*(link.child for link in kept), ending]) if kept else {}
            for child in kept:
                if child.child in seen or child.child not in rows:
                    continue
                reason = f"its parent {rows[ending].id!r} has ended"
                is_terminated = is_forced or child.policy == ParentClosePolicy.TERMINATE
                if is_terminated:
                    seen.add(child.child)
                    todo.append((child.child, True))
                if rows[child.child].status >= Status.COMPLETED:
                    continue
                if is_terminated:
                    await self.terminate(rows[child.child], encode_failure(Failure(_TERMINATED, reason)))
                else:
                    await self._cancel(child.child, reason, f"parent/{ending}")
            await self.tell_parents(ending)

    async def tell_parents(self, child: int) -> None:
        """Tell the end of a child to those who have started it, or are attached to it, and do not know yet."""
        untold = [ChildRow._make(row) for row in await self._tx.rows(children.UNTOLD_PARENTS, child)]
        if not untold:
            return
        rows = await self._tx.lock([child, *(link.parent for link in untold)])
        last = await self._tx.row(history.LAST_PAYLOAD, child, child)
        payload = msgspec.Raw(b"null" if last is None or last[0] is None else last[0])
        for link in untold:
            await self._tx.run(children.TELL, link.parent, link.run, link.activity_id)
            parent = rows.get(link.parent)
            if parent is None or child not in rows or parent.status >= Status.COMPLETED:
                continue
            item = MessageRow(
                parent.key,
                0,
                InboxKind.CHILD,
                link.activity_id,
                f"child/{link.run}/{link.activity_id}",
                rows[child].id,
                _encode(ChildEnd(link.run, rows[child].status, payload)),
                self._tx.now,
            )
            rows[parent.key] = await self.put(parent, item, kind=InboxKind.CHILD)

    async def terminate(self, row: Row, failure: bytes) -> None:
        """End an open instance, which is locked, whoever owns it; what that means for others is `conclude`'s."""
        key, run, now = row.key, row.run, self._tx.now
        last = await self._tx.row(history.LAST_TURN, key, run)
        turn = 1 + (0 if last is None else last[0])
        event = HistoryRow(key, run, row.next_seq, turn, now, EventKind.RUN_TERMINATED, None, failure)
        await self._tx.write((history.INSERT, [event]))
        await self._tx.run(instances.END, Status.TERMINATED, now, key)
        await self._tx.run(heartbeats.DELETE, key)
        self.ended.append(key)

    async def _cancel(self, key: int, reason: str, message_id: str) -> None:
        """Ask an instance to cancel; once for a message id, and not if it has ended."""
        row = (await self._tx.lock([key])).get(key)
        if row is None or row.status >= Status.COMPLETED:
            return
        if await self._tx.row(messages.IS_DELIVERED, key, message_id) is None:
            await self._tx.write((messages.INSERT_DELIVERY, [(key, message_id, self._tx.now)]))
            item = MessageRow(key, 0, InboxKind.CANCEL, None, message_id, None, _encode(reason), self._tx.now)
            await self.put(row, item, kind=InboxKind.CANCEL)

    async def _subscriptions(self, key: int) -> list[SubscriptionRow]:
        return [SubscriptionRow._make(row) for row in await self._tx.rows(topics.SUBSCRIPTIONS_OF, [key])]

    async def _unsubscribe(self, row: SubscriptionRow) -> None:
        """Close a subscription; what it holds unread of a competing topic returns to its place."""
        mailbox = (row.key, row.mailbox)
        await self._tx.run(topics.UNSUBSCRIBE, row.channel, *mailbox)
        await self._tx.run(topics.END_WAITS_OF_MAILBOX, *mailbox)
        if await self._tx.run(topics.RETURN, row.channel, *mailbox):
            await self._set_pending(row.channel)
        await self._tx.run(topics.DROP_MAILBOX, *mailbox)

    async def _set_pending(self, channel: str) -> None:
        await self._tx.channels([channel])
        await self._tx.run(topics.SET_PENDING, channel)
        self.has_topics = True
