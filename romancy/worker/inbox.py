"""What comes out of an instance's inbox, as the replay core takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from romancy.core.events import CancelRequested, Envelope, MessageReceived
from romancy.core.records import InboxKind

if TYPE_CHECKING:
    from romancy.core.events import Release
    from romancy.core.records import InboxItem

_encode = msgspec.json.Encoder().encode


def release_of_item(item: InboxItem) -> Release:
    """Return the release that an inbox row becomes."""
    if item.kind is InboxKind.CANCEL:
        return CancelRequested(item.body, item.seq)
    envelope = Envelope(item.message_id, item.at, msgspec.Raw(item.body), item.sender)
    return MessageReceived(item.channel or "", _encode(envelope), item.seq)
