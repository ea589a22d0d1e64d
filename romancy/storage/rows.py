"""The rows that a commit reads and writes, as tuples in the order of their columns."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """What a decision needs to know of an instance."""

    key: int
    id: str
    execution_id: int
    session: int | None
    status: int
    run: int
    next_seq: int
    drained_seq: int
    wake_at: int | None
    inbox_seq: int
    inbox_seen: int
    recoveries: int
    ties: int


class HistoryRow(NamedTuple):
    """An event with its place."""

    key: int
    run: int
    seq: int
    turn: int
    stamp: int
    kind: int
    activity_id: str | None
    payload: bytes | None


class MessageRow(NamedTuple):
    """An inbox item with its place."""

    key: int
    seq: int
    kind: int
    channel: str | None
    message_id: str
    sender: str | None
    body: bytes
    at: int
    headers: bytes | None = None
    sent_at: int | None = None
    topic_seq: int | None = None


class ChannelRow(NamedTuple):
    """How a channel hands out messages, and how far it has come."""

    name: str
    mode: int
    last_seq: int
    handed_key: int
    is_pending: int


class TopicRow(NamedTuple):
    """A published message in its place."""

    channel: str
    seq: int
    message_id: str
    sender: str | None
    headers: bytes | None
    body: bytes
    at: int


class SubscriptionRow(NamedTuple):
    """Who gets what is published to a channel after ``since``, and into which mailbox."""

    channel: str
    key: int
    mailbox: str
    run: int
    since: int


class ChildRow(NamedTuple):
    """That an instance has a child, and what becomes of that at its end."""

    parent: int
    run: int
    activity_id: str
    child: int
    policy: str
    is_told: int = 0


class Advance(NamedTuple):
    """An instance of which nothing but its place in history has changed: no indexed column."""

    next_seq: int
    drained_seq: int
    recoveries: int
    key: int


class Settlement(NamedTuple):
    """An instance that was parked, freed, blocked or closed, or whose inbox was looked at."""

    session: int | None
    status: int
    next_seq: int
    drained_seq: int
    wake_at: int | None
    inbox_seq: int
    inbox_seen: int
    recoveries: int
    is_waiting_on_written: bool
    waiting_on: bytes | None
    reason: bytes | None
    build: str | None
    closed_at: int | None
    key: int


class PlainRow(NamedTuple):
    """What an entry writes to its own instance if that is as the entry's owner believes."""

    key: int
    execution_id: int
    run: int
    seq: int
    next_seq: int
    drained_seq: int
    is_progress: bool
    inbox_seen: int
    is_settlement: bool
    session: int | None
    status: int
    is_waiting_on_written: bool
    wake_at: int | None
    waiting_on: bytes | None
    reason: bytes | None
    build: str | None
    closed_at: int | None


class Reach(NamedTuple):
    """An instance that only got something into its inbox."""

    inbox_seq: int
    wake_at: int | None
    key: int


class ShownRow(NamedTuple):
    """What an instance shows from now on: a custom status (None: as before), and tags as a JSON merge patch."""

    custom_status: bytes | None
    tags: str
    key: int


class ArchiveRow(NamedTuple):
    """A run that recur has closed."""

    key: int
    run: int
    closed_at: int


class Opening(NamedTuple):
    """An instance whose next run begins."""

    run: int
    workflow: str
    version: str
    input: bytes
    started_at: int
    key: int
