"""What a worker can be told."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from romancy.core.codec import DEFAULT_PAYLOAD_LIMIT
from romancy.core.retry import RetryPolicy


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker behaves.

    Attributes:
        hot_limit: How many runs stay in memory while they wait; 0: none, every wait is resumed by replay.
        idle_timeout: How long a run stays in memory while it waits.
        max_activities: How many activity bodies run at once.
        session_ttl: After how long without a sign of life another worker takes over.
        grace: How long a shutdown lets activities end.
        poll_interval: How often the database is looked at even if nothing says that it changed; None: as often as
            the storage says.
        unserved_grace: How long an instance may be due with no worker for it before it is blocked.
        warn_after: How long a turn may hold the event loop before its stack is logged.
        interrupt_after: How long before it is interrupted and its instance blocked.
        max_recoveries: How often an instance's worker may die under it before it is blocked.
        instance_retention: How long an instance that has ended is kept; None: for ever.
        archive_retention: How long the history of a run that recur has closed is kept; None: for ever.
        message_retention: For how long a message with an id that was delivered is recognised; None: for ever.
        retry: The policy of activities that have none of their own.
        is_lenient: A programming error in workflow code fails the run instead of blocking it.
        transaction_limit: How long a transactional activity may keep the database from others.
        payload_limit: Upper bound of an encoded value in bytes.
        build: Names the deployed code; a blocked instance is tried again by another build.
    """

    hot_limit: int = 10_000
    idle_timeout: timedelta = timedelta(minutes=10)
    max_activities: int = 1_000
    session_ttl: timedelta = timedelta(seconds=10)
    grace: timedelta = timedelta(seconds=10)
    poll_interval: timedelta | None = None
    unserved_grace: timedelta = timedelta(seconds=5)
    warn_after: timedelta = timedelta(seconds=1)
    interrupt_after: timedelta = timedelta(seconds=3)
    max_recoveries: int = 20
    instance_retention: timedelta | None = None
    archive_retention: timedelta | None = timedelta(days=30)
    message_retention: timedelta | None = timedelta(days=7)
    retry: RetryPolicy = RetryPolicy()
    is_lenient: bool = False
    transaction_limit: timedelta = timedelta(seconds=2)
    payload_limit: int = DEFAULT_PAYLOAD_LIMIT
    build: str = ""
