"""What comes out of an instance's inbox, as the replay core takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from romancy.core.events import ActivityAnswered, CancelRequested, ChildClosed, Envelope, MessageReceived
from romancy.core.records import InboxKind

if TYPE_CHECKING:
    from romancy.core.events import Arrival
    from romancy.core.records import InboxItem

_headers = msgspec.json.Decoder(dict[str, str])
_encode = msgspec.json.Encoder().encode


def release_of_item(item: InboxItem) -> Arrival:
    """Return the release that an inbox row becomes."""
    if item.kind is InboxKind.CANCEL:
        return CancelRequested(item.body, item.seq)
    if item.kind is InboxKind.ACTIVITY:
        return ActivityAnswered(item.body, item.seq)
    if item.kind is InboxKind.CHILD:
        return ChildClosed(item.channel or "", item.body, item.seq)
    headers = _headers.decode(item.headers) if item.headers else {}
    sent_at = item.at if item.sent_at is None else item.sent_at
    envelope = Envelope(item.message_id, sent_at, msgspec.Raw(item.body), item.sender, headers)
    return MessageReceived(item.channel or "", _encode(envelope), item.seq)
