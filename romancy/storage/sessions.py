"""Workers' sessions, and what becomes of instances that nobody looks after."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from romancy.core.failures import Failure, encode_failure
from romancy.core.records import Elder
from romancy.core.versions import version_key
from romancy.errors import SessionLostError
from romancy.storage.sql import instances, sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from romancy.core.records import SessionInfo
    from romancy.storage.tx import Tx


async def fence(tx: Tx, session: int) -> None:
    """Make sure that a session is live, and stays so until the transaction that relies on it is over.

    Raises:
        SessionLostError: It is not.
    """
    if not await tx.fence(session):
        raise lost(session)


def lost(session: int) -> SessionLostError:
    """Make the error that says that a session is dead."""
    return SessionLostError(f"session {session} has expired or was closed: it owns nothing any more")


async def open_session(tx: Tx, info: SessionInfo, ttl: int) -> int:
    """Register a session that lives for so many microseconds, and return its number."""
    found = await tx.row(
        sessions.INSERT,
        tx.present,
        ttl,
        info.build,
        json.dumps(info.definitions),
        info.runtime,
        info.host,
        info.pid,
        info.process,
    )
    return cast("tuple[int]", found)[0]


async def renew_session(tx: Tx, session: int, ttl: int) -> tuple[Elder, int | None]:
    """Let a session live for so many microseconds from now, by one statement.

    Returns:
        The oldest live session, and the clock of the server, if there is one.

    Raises:
        SessionLostError: It was declared dead or has expired.
    """
    found = await tx.row(sessions.RENEW, tx.present, ttl, session)
    if found is None:
        raise SessionLostError(f"session {session} has expired or was closed: it can't be renewed")
    elder, process, *clock = found
    return Elder(session, "") if elder is None else Elder(elder, process), clock[0] if clock else None


async def close_session(tx: Tx, session: int) -> None:
    """End a session and free what it owns."""
    await tx.lock([key for (key,) in await tx.rows(instances.OWNED, session)])
    await tx.run(instances.FREE, tx.now, tx.now, session)
    await tx.run(sessions.DELETE, session)


async def free_strays(tx: Tx, session: int, held: Sequence[int], starting: Sequence[int]) -> int:
    """Free what a session owns beyond what it holds; return how many were freed."""
    known = set(held)
    await tx.lock([key for (key,) in await tx.rows(instances.OWNED, session) if key not in known])
    return await tx.run(instances.FREE_STRAYS, tx.now, tx.now, session, list(held), list(starting))


async def dead_sessions(tx: Tx, is_gone: Callable[[str], bool]) -> tuple[list[int], list[int]]:
    """Find the sessions that have expired or whose processes have ended, and of these the latter."""
    found = await tx.rows(sessions.ALL, tx.present)
    gone = [session for session, process, _ in found if process and is_gone(process)]
    return sorted({session for session, _, is_expired in found if is_expired}.union(gone)), gone


async def reap_sessions(tx: Tx, dead: Sequence[int], gone: Sequence[int]) -> int:
    """End dead sessions and free what they own; return how many instances were freed.

    A session whose transaction is under way is left for later, and so is one that was renewed since it was found.
    """
    freed = 0
    dying = [session for (session,) in await tx.rows(sessions.DYING, tx.present, list(dead), list(gone))]
    await tx.lock([key for session in dying for (key,) in await tx.rows(instances.OWNED, session)])
    for session in dying:
        freed += await tx.run(instances.FREE_AND_COUNT, tx.now, tx.now, tx.now, session)
        await tx.run(sessions.DELETE, session)
    return freed


async def unserved(tx: Tx, is_spared: Callable[[str, str], bool]) -> list[tuple[str, str, int, bytes]]:
    """Find the definitions that no live session serves, with their instances' priorities and the reason to give."""
    served = {
        (workflow, version)
        for (definitions,) in await tx.rows(sessions.LIVE_DEFINITIONS, tx.present)
        for workflow, version in json.loads(definitions)
    }
    found: list[tuple[str, str, int, bytes]] = []
    async for workflow, version, priority in _lanes(tx):
        if (workflow, version) in served or is_spared(workflow, version):
            continue
        others = sorted((v for w, v in served if w == workflow), key=version_key)
        besides = f" (there are workers for its versions {', '.join(map(repr, others))})" if others else ""
        message = f"no worker serves workflow {workflow!r}, version {version!r}{besides}; deploy one that does"
        reason = encode_failure(Failure("romancy.errors:WorkflowBlockedError", message))
        found.append((workflow, version, priority, reason))
    return found


async def block(tx: Tx, lanes: Sequence[tuple[str, str, int, bytes]], due_before: int) -> int:
    """Block what nobody serves; return how many instances were blocked."""
    blocked = 0
    for workflow, version, priority, reason in lanes:
        blocked += await tx.run(instances.BLOCK, reason, workflow, version, priority, due_before)
    return blocked


async def _lanes(tx: Tx) -> AsyncIterator[tuple[str, str, int]]:
    """Step through the definitions and priorities of what is unowned, without visiting the instances."""
    workflow, version, priority = "", "", -(2**15)
    while True:
        beyond = (workflow, version, priority, workflow, version, workflow)
        found = await tx.rows(instances.NEXT_LANE, *beyond)
        if not found:
            return
        workflow, version, priority = min(tuple(row) for row in found)
        yield workflow, version, priority
