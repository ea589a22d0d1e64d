"""What has reached a run and is not yet released to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from romancy.core.events import CancelRequested, MessageReceived

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.replay.operations import Operations

Unread: TypeAlias = MessageReceived | CancelRequested


class Inbox:
    """Keep messages until a receive waits for them; a cancel is released at once.

    Attributes:
        has_news: Whether a look can find something: a receive or an item is new.
    """

    __slots__ = ("_items", "has_news")

    def __init__(self) -> None:
        self._items: list[Unread] = []
        self.has_news = False

    def add(self, item: Unread) -> None:
        """Put an item at the end."""
        self._items.append(item)
        self.has_news = True

    def extend(self, items: Iterable[Unread]) -> None:
        """Put items at the end, in their order."""
        for item in items:
            self.add(item)

    def unread(self) -> list[Unread]:
        """Return the items, oldest first: the next run of the instance goes on with them."""
        return list(self._items)

    def take_message(self, mailbox: str) -> MessageReceived | None:
        """Remove and return a mailbox's oldest message, though no receive waits for it; None if there is none."""
        for index, item in enumerate(self._items):
            if isinstance(item, MessageReceived) and item.mailbox == mailbox:
                del self._items[index]
                return item
        return None

    def drop(self, mailbox: str) -> None:
        """Forget the messages of a mailbox: its subscription is closed."""
        self._items = [item for item in self._items if isinstance(item, CancelRequested) or item.mailbox != mailbox]

    def take(self, operations: Operations) -> Unread | None:
        """Remove and return the oldest item that can be released; a message then names its receive."""
        if not self.has_news:
            return None
        for index, item in enumerate(self._items):
            if isinstance(item, CancelRequested):
                del self._items[index]
                return item
            receiver = operations.receiver_of(item.mailbox)
            if receiver is not None:
                del self._items[index]
                return msgspec.structs.replace(item, activity_id=receiver)
        self.has_news = False
        return None
