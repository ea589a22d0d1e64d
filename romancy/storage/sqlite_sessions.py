"""Workers' sessions, and what becomes of instances that nobody looks after, on SQLite."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from romancy.core.failures import Failure, encode_failure
from romancy.core.versions import version_key
from romancy.errors import SessionLostError
from romancy.storage.sql import instances, sessions

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from romancy.core.records import SessionInfo


def fence(connection: sqlite3.Connection, session: int, now: int) -> None:
    """Make sure that a session is live, within the transaction that relies on it.

    Raises:
        SessionLostError: It is not.
    """
    if connection.execute(sessions.IS_LIVE, (session, now)).fetchone() is None:
        raise SessionLostError(f"session {session} has expired or was closed: it owns nothing any more")


def open_session(connection: sqlite3.Connection, info: SessionInfo, expires_at: int, now: int) -> int:
    """Register a session and return its number, within a transaction."""
    values = (
        expires_at,
        info.build,
        json.dumps(info.definitions),
        info.runtime,
        info.host,
        info.pid,
        info.process,
        now,
    )
    return cast("int", connection.execute(sessions.INSERT, values).lastrowid)


def renew_session(connection: sqlite3.Connection, session: int, expires_at: int, now: int) -> None:
    """Let a session live longer, within a transaction.

    Raises:
        SessionLostError: It was declared dead or has expired.
    """
    if not connection.execute(sessions.RENEW, (expires_at, session, now)).rowcount:
        raise SessionLostError(f"session {session} has expired or was closed: it can't be renewed")


def close_session(connection: sqlite3.Connection, session: int, now: int) -> None:
    """End a session and free what it owns, within a transaction."""
    connection.execute(instances.FREE, (now, now, session))
    connection.execute(sessions.DELETE, (session,))


def free_strays(
    connection: sqlite3.Connection, session: int, held: Sequence[int], starting: Sequence[int], now: int
) -> int:
    """Free what a session owns beyond what it holds, within a transaction; return how many were freed."""
    values = (now, now, session, json.dumps(list(held)), json.dumps(list(starting)))
    return connection.execute(instances.FREE_STRAYS, values).rowcount


def reap_sessions(connection: sqlite3.Connection, now: int, is_gone: Callable[[str], bool]) -> int:
    """End dead sessions and free what they own, within a transaction; return how many were freed."""
    dead = {session for (session,) in connection.execute(sessions.EXPIRED, (now,))}
    dead |= {session for session, process in connection.execute(sessions.PROCESSES) if is_gone(process)}
    freed = 0
    for session in sorted(dead):
        freed += connection.execute(instances.FREE_AND_COUNT, (now, now, now, session)).rowcount
        connection.execute(sessions.DELETE, (session,))
    return freed


def block_unserved(
    connection: sqlite3.Connection, due_before: int, now: int, is_spared: Callable[[str, str], bool]
) -> int:
    """Block what no live session serves, within a transaction; return how many were blocked."""
    served = {
        (workflow, version)
        for (definitions,) in connection.execute(sessions.LIVE_DEFINITIONS, (now,))
        for workflow, version in json.loads(definitions)
    }
    blocked = 0
    for workflow, version, priority in _lanes(connection):
        if (workflow, version) in served or is_spared(workflow, version):
            continue
        others = sorted((v for w, v in served if w == workflow), key=version_key)
        besides = f" (there are workers for its versions {', '.join(map(repr, others))})" if others else ""
        message = f"no worker serves workflow {workflow!r}, version {version!r}{besides}; deploy one that does"
        reason = encode_failure(Failure("romancy.errors:WorkflowBlockedError", message))
        values = (reason, workflow, version, priority, due_before)
        blocked += connection.execute(instances.BLOCK, values).rowcount
    return blocked


def _lanes(connection: sqlite3.Connection) -> Iterator[tuple[str, str, int]]:
    """Step through the definitions and priorities of what is unowned, without visiting the instances."""
    workflow, version, priority = "", "", 0
    while True:
        beyond = (workflow, version, priority, workflow, version, workflow)
        found = connection.execute(instances.NEXT_LANE, beyond).fetchall()
        if not found:
            return
        workflow, version, priority = min(found)
        yield workflow, version, priority
