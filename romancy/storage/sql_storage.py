"""What storages on SQL databases have in common: their transactions, one for each method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeAlias, TypeVar, cast

from romancy.activities.transaction import current_scope
from romancy.core.events import Event
from romancy.core.records import HandedOut
from romancy.storage import branching, claims, commit, instances, publishing, retention, sessions
from romancy.storage.sql import history, topics

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from romancy.core.clock import Clock
    from romancy.core.records import (
        Accepted,
        Branch,
        ChildLink,
        Claims,
        Creation,
        Elder,
        Entry,
        Heartbeat,
        Instance,
        InstanceFilter,
        KeptRun,
        Mail,
        NewInstance,
        OpenCounts,
        Post,
        PostResult,
        Publication,
        Refused,
        Rejected,
        SessionInfo,
        Standing,
    )
    from romancy.storage.tx import Tx

T = TypeVar("T")
Work: TypeAlias = "Callable[[Tx], Coroutine[Any, Any, T]]"

_MICROSECOND = timedelta(microseconds=1)
_BEGINNING = -1
"""Before everything."""


def spares_nothing(_: str, __: str) -> bool:
    """Say of every definition that nothing is to be waited for."""
    return False


def nobody(_: str) -> bool:
    """Say of every process that it lives."""
    return False


class Joinable(Protocol):
    """The transaction of an activity, as the storage's own methods join it."""

    def is_of(self, storage: object) -> bool:
        """Tell whether the transaction is one of this storage."""
        ...

    async def run(self, work: Work[T]) -> T:
        """Do a part of what the storage does, within the transaction, whole or not at all."""
        ...


J = TypeVar("J", bound=Joinable)


class SqlStorage(ABC, Generic[J]):
    """Be most of a `romancy.storage.protocol.Storage`, on whatever runs transactions.

    Attributes:
        clock: Tells the instants that are stored and compared.
        transactions_at_once: How many transactions of activities can be open at a time.
    """

    clock: Clock
    transactions_at_once: int

    @abstractmethod
    async def _write(self, work: Work[T], *, relying_on: int | None = None) -> T:
        """Run a transaction, and commit it; it may rely on a session, which it makes sure of by `Tx.fence`."""

    async def _write_at_once(self, work: Work[T]) -> T:
        """Run a transaction of a single statement."""
        return await self._write(work)

    @abstractmethod
    async def _read(self, work: Work[T]) -> T:
        """Run statements that only read."""

    async def _progress(self, work: Work[T]) -> T:
        """Write for a client, within its own transaction, if it has one."""
        joined = await self._joined()
        return await (self._write(work) if joined is None else joined.run(work))

    async def _look(self, work: Work[T]) -> T:
        """Read for a client, within its own transaction, if it has one."""
        joined = await self._joined()
        return await (self._read(work) if joined is None else joined.run(work))

    async def _joined(self) -> J | None:
        """Return the transaction of the activity that calls, begun and of this storage; None if there is none.

        Raises:
            StorageError: It can't begin, or it is over: what its tasks still do must not take effect by itself.
        """
        scope = current_scope.get(None)
        if scope is None or not scope.is_asked:
            return None
        if scope.joined is None:
            await scope.begin()
        joined = cast("J", scope.joined)
        if not joined.is_of(self):
            return None
        await scope.begin()
        return joined

    # Sessions

    async def open_session(self, info: SessionInfo, ttl: timedelta) -> int:
        """Register a worker; its session lives for ``ttl`` from now unless renewed."""
        return await self._write(lambda tx: sessions.open_session(tx, info, ttl // _MICROSECOND))

    async def renew_session(self, session: int, ttl: timedelta) -> Elder:
        """Let the session live for ``ttl`` from now.

        Returns:
            The oldest session that is live.

        Raises:
            SessionLostError: It was declared dead or has expired; it can't come back.
        """
        return (await self._renew(session, ttl))[0]

    async def _renew(self, session: int, ttl: timedelta) -> tuple[Elder, int | None]:
        return await self._write_at_once(lambda tx: sessions.renew_session(tx, session, ttl // _MICROSECOND))

    async def close_session(self, session: int) -> None:
        """End the session and free what it owns, claimable at once where it was due. Safe to call twice."""
        await self._write(lambda tx: sessions.close_session(tx, session))

    async def free_strays(self, session: int, held: Sequence[int], starting: Sequence[int] = ()) -> int:
        """Free what a session owns without knowing, claimable at once where it was due.

        Returns:
            How many instances were freed.
        """
        return await self._write(lambda tx: sessions.free_strays(tx, session, held, starting))

    async def reap_sessions(self, is_gone: Callable[[str], bool] = nobody) -> int:
        """Declare expired sessions dead, the caller's own too, and those of ended processes; free what they own.

        Returns:
            How many instances were freed.
        """
        dead, gone = await self._read(lambda tx: sessions.dead_sessions(tx, is_gone))
        return await self._write(lambda tx: sessions.reap_sessions(tx, dead, gone)) if dead else 0

    async def block_unserved(self, *, due_before: int, is_spared: Callable[[str, str], bool] = spares_nothing) -> int:
        """Block unowned instances that were due before that instant and that no live session serves.

        Returns:
            How many were blocked.
        """
        lanes = await self._read(lambda tx: sessions.unserved(tx, is_spared))
        return await self._write(lambda tx: sessions.block(tx, lanes, due_before)) if lanes else 0

    async def prune(
        self,
        *,
        instances: timedelta | None = None,
        archives: timedelta | None,
        deliveries: timedelta | None,
        limit: int,
    ) -> int:
        """Remove ended instances, closed runs and ids of messages that were kept for long enough, the oldest first.

        Returns:
            How many rows were removed; less than ``limit`` when nothing is left to remove.
        """

        def work(tx: Tx) -> Coroutine[Any, Any, int]:
            ended_by, archived_by, delivered_by = (
                _BEGINNING if kept is None else max(tx.now - kept // _MICROSECOND, _BEGINNING)
                for kept in (instances, archives, deliveries)
            )
            return retention.prune(tx, ended_by, archived_by, delivered_by, limit)

        return await self._write(work)

    # What clients do

    async def create(self, new: NewInstance, on_conflict: Literal["raise", "attach", "restart"] = "raise") -> Creation:
        """Create an instance; a restarted one gets a new key.

        Raises:
            InstanceAlreadyExistsError: The id is taken, and ``on_conflict`` is ``"raise"``.
            InstanceRunningError: ``"restart"``, and the instance has not ended.
        """
        return await self._progress(lambda tx: instances.create(tx, new, on_conflict))

    async def post(self, posts: Sequence[Post]) -> list[PostResult]:
        """Put items into instances' inboxes and make the instances claimable now, all of them or none."""
        return await self._progress(lambda tx: instances.post(tx, posts))

    async def publish(self, publications: Sequence[Publication]) -> list[PostResult]:
        """Add messages to topics, in order, all of them or none."""
        return await self._progress(lambda tx: publishing.publish(tx, publications))

    async def terminate(self, id: str, failure: bytes, *, is_recursive: bool = True) -> list[int]:
        """End an instance now, whoever owns it, and its children.

        Returns:
            The keys of the instances that were ended.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended already, and so has all that it started.
        """
        return await self._progress(lambda tx: instances.terminate(tx, id, failure, is_recursive=is_recursive))

    async def pause(self, id: str) -> None:
        """Make an instance PAUSED: nothing of it runs any more.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
            WorkflowBlockedError: It is blocked.
        """
        await self._progress(lambda tx: instances.pause(tx, id))

    async def unpause(self, id: str) -> None:
        """Let a paused instance go on where it was.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceClosedError: It has ended.
        """
        await self._progress(lambda tx: instances.unpause(tx, id))

    async def purge(self, id: str, *, is_recursive: bool = True) -> list[int]:
        """Delete an instance that has ended, with its history, archived runs, tags and inbox.

        Recursively, in the same transaction, also what it has started and not abandoned, and what those have.

        Returns:
            The keys of the instances that were deleted; empty if an earlier try did it whose acknowledgement was lost.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceRunningError: It, or one of the others, has not ended; nothing is deleted.
        """
        return await self._progress(lambda tx: instances.purge(tx, id, is_recursive=is_recursive))

    async def unblock(self, id: str) -> None:
        """Let any worker try a blocked instance again, now.

        Raises:
            InstanceNotFoundError: No instance has the id.
            InstanceRunningError: It is not blocked.
        """
        await self._progress(lambda tx: branching.unblock(tx, id))

    async def rewind(self, branches: Sequence[Branch]) -> None:
        """Let instances that have failed go on in another way, all of them or none; claimable now.

        Raises:
            InstanceNotFoundError: There is no such instance any more, or it was started anew.
            InstanceRunningError: One of them does not stand as it did, or its end is known to a parent that goes on.
        """
        await self._progress(lambda tx: branching.rewind(tx, branches))

    async def branch(self, new: NewInstance, branch: Branch) -> Creation:
        """Create an instance whose history begins as another one's, which is left as it is; claimable now.

        Raises:
            InstanceAlreadyExistsError: The id is taken.
            InstanceNotFoundError: There is no such instance any more, or it was started anew.
            InstanceRunningError: The other has begun another run since.
        """
        return await self._progress(lambda tx: branching.branch(tx, new, branch))

    # What owners do

    @abstractmethod
    async def claim(self, session: int, definitions: Sequence[tuple[str, str]], build: str, *, limit: int) -> Claims:
        """Take ownership of instances that are due."""

    async def commit(self, session: int, entries: Sequence[Entry]) -> list[Accepted | Rejected | Refused]:
        """Write what turns ask for: each entry whole or not at all, in one transaction. Idempotent.

        Returns:
            One answer per entry, in order.

        Raises:
            SessionLostError: The session is dead; nothing is written.
        """
        return await self._write(lambda tx: commit.commit(tx, session, entries), relying_on=session)

    async def hand_out(self, *, limit: int) -> HandedOut:
        """Put published messages into the inboxes of their subscribers; writes nothing where none is published."""
        if await self._read(lambda tx: tx.row(topics.HAS_PENDING)) is None:
            return HandedOut([], has_more=False)
        return await self._progress(lambda tx: publishing.hand_out(tx, limit))

    async def beat(self, session: int, heartbeats: Sequence[Heartbeat]) -> None:
        """Keep the latest details of running activities, for whoever has to run them again.

        Raises:
            SessionLostError: The session is dead; nothing is written.
        """
        await self._write(lambda tx: commit.beat(tx, session, heartbeats), relying_on=session)

    async def mail(self, session: int) -> list[Mail]:
        """Read the inbox rows of owned instances that their owner has not seen, ordered by key and seq."""
        return await self._read(lambda tx: claims.mail(tx, session))

    # Reading

    async def get(self, id: str) -> Instance | None:
        """Read an instance's row."""
        return await self._look(lambda tx: instances.get(tx, id))

    async def history(self, key: int, *, run: int | None = None, after: int = -1) -> list[Event]:
        """Read the events with ``seq > after`` of a run (None: the current one), ordered by seq."""

        async def work(tx: Tx) -> list[Event]:
            if run is None:
                found = await tx.rows(history.OF_CURRENT_RUN, key, key, after)
            else:
                found = await tx.rows(history.OF_RUN, key, run, after)
            return [Event._make(row) for row in found]

        return await self._look(work)

    async def get_many(self, keys: Sequence[int]) -> list[Instance]:
        """Read instances' rows, in the order of their keys; a purged one is missing."""
        return await self._look(lambda tx: instances.get_many(tx, keys))

    async def children(self, key: int) -> Sequence[ChildLink]:
        """Read the children of an instance that have not been purged, by run, in the order of their creation."""
        return await self._look(lambda tx: instances.links(tx, key))

    async def count(self, where: InstanceFilter, *, after: int = 0) -> int:
        """Count the instances with ``key > after`` that `list` would read."""
        return await self._look(lambda tx: instances.count(tx, where, after))

    async def last_key(self) -> int | None:
        """Return the greatest key of an instance; None: there are none."""
        return await self._look(instances.last_key)

    async def count_open(self) -> OpenCounts:
        """Count the instances that have not ended."""
        return await self._look(instances.count_open)

    async def standings(self, keys: Sequence[int]) -> dict[int, Standing]:
        """Read how instances stand, and how they ended; a purged one is missing."""
        return await self._look(lambda tx: instances.standings(tx, keys))

    async def kept_runs(self, key: int, *, before: int, limit: int) -> list[KeptRun]:
        """Read which of the runs that recur has closed are still kept, of those before a run; the newest first."""
        return await self._look(lambda tx: retention.kept_runs(tx, key, before, limit))

    async def list(self, where: InstanceFilter, *, after: int = 0, limit: int = 100) -> list[Instance]:
        """Read instances with ``key > after``, ordered by key."""
        return await self._look(lambda tx: instances.page(tx, where, after, limit))
