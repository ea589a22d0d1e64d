"""What a turn asks of the database beyond its own record.

A *request* has an outcome that only the commit knows; it comes back as an event of the next turn, under the request's
activity id. An *order* has none: once the turn is committed, it is done.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Literal, TypeAlias

import msgspec

OnParentClose: TypeAlias = Literal["cancel", "terminate", "abandon"]
"""What becomes of a child when its parent ends before it."""


class ChannelMode(IntEnum):
    """Say how a channel hands out messages. The numbers are stored."""

    DIRECT = 1
    BROADCAST = 2
    COMPETING = 3
    TOPIC = 4
    """Published to, and not yet subscribed to: either of the two before."""


class ParentClosePolicy(StrEnum):
    """Say what becomes of a child when its parent ends before it. The texts are stored."""

    CANCEL = "cancel"
    TERMINATE = "terminate"
    ABANDON = "abandon"


class Send(msgspec.Struct, frozen=True):
    """Put a message into another instance's inbox. Outcome: a `SendOutcome` as a decimal number."""

    activity_id: str
    to: str
    channel: str
    body: bytes
    message_id: str
    headers: bytes | None = None


class Publish(msgspec.Struct, frozen=True):
    """Add a message to a channel's topic. Outcome: a `SendOutcome` as a decimal number."""

    activity_id: str
    channel: str
    body: bytes
    message_id: str
    headers: bytes | None = None


class Subscribe(msgspec.Struct, frozen=True):
    """Subscribe the instance to a channel's topic.

    A subscription that an earlier run of the instance has left open is taken over, with what it has not read.
    Outcome: the subscription's mailbox as a JSON string, or the channel's mode as a number if it is another one.
    """

    activity_id: str
    channel: str
    mode: ChannelMode


class StartChild(msgspec.Struct, frozen=True):
    """Create an instance as a child, and have its end told to the parent under the request's activity id.

    With ``is_attaching`` an instance that is there already is taken for it. Outcome: a `ChildOutcome` as a decimal
    number.
    """

    activity_id: str
    id: str
    execution_id: int
    workflow: str
    version: str
    input: bytes
    policy: ParentClosePolicy
    is_attaching: bool = False
    trace_context: str | None = None


class Wait(msgspec.Struct, frozen=True):
    """Have a message of a competing subscription handed over as soon as there is one; in the order of the waits."""

    activity_id: str
    channel: str
    mailbox: str


class EndWait(msgspec.Struct, frozen=True):
    """Take a `Wait` back, or note that it is over."""

    activity_id: str


class Unsubscribe(msgspec.Struct, frozen=True):
    """Close a subscription: what it has been handed and not read goes back to its place in a competing topic."""

    mailbox: str


class CancelChild(msgspec.Struct, frozen=True):
    """Ask the child that was started under an activity id to cancel; nothing if there is none, or it has ended.

    Nor if it was asked in the same ``turn`` already.
    """

    activity_id: str
    reason: str = ""
    turn: int = 0


Request: TypeAlias = Send | Publish | Subscribe | StartChild
Order: TypeAlias = Wait | EndWait | Unsubscribe | CancelChild


class ChildOutcome(IntEnum):
    """What became of the start of a child. Stored as a decimal number."""

    STARTED = 0
    EXISTS = 1
    ATTACHED = 2
