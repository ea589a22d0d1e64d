"""What becomes of channels, topics and subscriptions, decided without a database.

A message of a topic is in exactly one place: in the topic, or, once it was handed out, in inboxes. A broadcast message
is copied to every subscriber and then dropped; a competing one moves to the inbox of the receive that has waited
longest, and back to its place if its holder closes without having read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.events import SendOutcome
from romancy.core.records import InboxKind, Status
from romancy.core.requests import ChannelMode
from romancy.storage.rows import ChannelRow, MessageRow, Reach, Row, SubscriptionRow, TopicRow
from romancy.storage.waking import with_mail

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from romancy.core.requests import Publish, Subscribe


class Topics:
    """What the requests of a batch, in their order, do to channels.

    Attributes:
        publications: Messages to add to topics.
        subscriptions: Subscriptions to add.
        taken_over: Subscriptions of an earlier run that belong to a later one now.
    """

    def __init__(self, channels: Mapping[str, ChannelRow], subscriptions: Iterable[SubscriptionRow]) -> None:
        """Prepare.

        Args:
            channels: By name, the channels that the batch names, as far as they exist.
            subscriptions: All subscriptions of the instances that subscribe in the batch.
        """
        self._before = channels
        self._channels = dict(channels)
        self._owned: dict[tuple[int, str], list[SubscriptionRow]] = {}
        for row in subscriptions:
            self._owned.setdefault((row.key, row.channel), []).append(row)
        self.publications: list[TopicRow] = []
        self.subscriptions: list[SubscriptionRow] = []
        self.taken_over: list[SubscriptionRow] = []

    def changed(self) -> list[ChannelRow]:
        """Return the channels to write."""
        return [row for name, row in self._channels.items() if self._before.get(name) != row]

    def admits_send(self, channel: str) -> bool:
        """Tell whether messages may be sent to instances directly."""
        row = self._channels.get(channel)
        return row is None or row.mode == ChannelMode.DIRECT

    def sent(self, channel: str) -> None:
        """Note that a message was sent directly; the first one decides on the channel's mode."""
        self._channels.setdefault(channel, ChannelRow(channel, ChannelMode.DIRECT, 0, 0, 0))

    def publish(self, request: Publish, sender: str | None, now: int) -> SendOutcome:
        """Add a message to a topic."""
        row = self._channels.get(request.channel) or ChannelRow(request.channel, ChannelMode.TOPIC, 0, 0, 0)
        if row.mode == ChannelMode.DIRECT:
            return SendOutcome.OTHER_MODE
        row = row._replace(last_seq=row.last_seq + 1, is_pending=int(row.mode != ChannelMode.TOPIC))
        self._channels[row.name] = row
        self.publications.append(
            TopicRow(row.name, row.last_seq, request.message_id, sender, request.headers, request.body, now)
        )
        return SendOutcome.SENT

    def subscribe(self, request: Subscribe, key: int, run: int) -> str | ChannelMode:
        """Open a subscription, or take over one that an earlier run has left.

        Returns:
            Its mailbox; or the channel's mode, if that is another one.
        """
        row = self._channels.get(request.channel) or ChannelRow(request.channel, ChannelMode.TOPIC, 0, 0, 0)
        if row.mode not in {request.mode, ChannelMode.TOPIC}:
            return ChannelMode(row.mode)
        # What was published before competing subscribers came is theirs; broadcast subscribers must not get it.
        self._channels[row.name] = row._replace(mode=request.mode, is_pending=1)
        owned = self._owned.setdefault((key, row.name), [])
        for index, left in enumerate(owned):
            if left.run < run:
                owned[index] = left._replace(run=run)
                self.taken_over.append(owned[index])
                return left.mailbox
        mailbox = f"{row.name}:{run}/{request.activity_id.partition(':')[0]}"
        since = row.last_seq if request.mode is ChannelMode.BROADCAST else 0
        owned.append(SubscriptionRow(row.name, key, mailbox, run, since))
        self.subscriptions.append(owned[-1])
        return mailbox


class HandOut:
    """Put published messages into inboxes; every instance is numbered on from where its row stands."""

    def __init__(self, now: int) -> None:
        self._now = now
        self._rows: dict[int, Row | None] = {}
        self._reached: dict[int, Row] = {}
        self.messages: list[MessageRow] = []

    def know(self, rows: Mapping[int, Row | None]) -> None:
        """Take note of instances' rows; None: there is no such instance."""
        for key, row in rows.items():
            self._rows.setdefault(key, row)

    def missing(self, keys: Iterable[int]) -> list[int]:
        """Return, of some keys, those whose rows are not known yet."""
        return sorted(set(keys) - self._rows.keys())

    def put(self, topic: TopicRow, key: int, mailbox: str, *, is_moved: bool) -> bool:
        """Put a message into an inbox; one that is moved remembers its place. False if the instance has ended."""
        row = self._rows.get(key)
        if row is None or row.status >= Status.COMPLETED:
            return False
        row = self._rows[key] = self._reached[key] = with_mail(row, self._now)
        self.messages.append(
            MessageRow(
                key,
                row.inbox_seq,
                InboxKind.MESSAGE,
                mailbox,
                topic.message_id,
                topic.sender,
                topic.body,
                self._now,
                topic.headers,
                topic.at,
                topic.seq if is_moved else None,
            )
        )
        return True

    def reaches(self) -> list[Reach]:
        """Return what becomes of the instances that were reached."""
        return [Reach(row.inbox_seq, row.wake_at, key) for key, row in self._reached.items()]
