"""A transaction on PostgreSQL, as what is written in it sees it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from romancy.core.records import Refused
from romancy.core.requests import ChannelMode
from romancy.storage.postgres_arrays import arrays
from romancy.storage.postgres_dialect import together, translate, without_waiting
from romancy.storage.postgres_errors import REFUSALS
from romancy.storage.postgres_transactions import TryAgainError
from romancy.storage.rows import ChannelRow, Row
from romancy.storage.sql import instances, sessions, topics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from romancy.storage.sql import Batch
    from romancy.storage.tx import Rows, Statement

T = TypeVar("T")

_LOCK_NAMES = "SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k"
_TRY_LOCK_NAMES = "SELECT bool_and(pg_try_advisory_xact_lock(k)) FROM unnest($1::bigint[]) AS k"


class Plan:
    """What one attempt at a transaction has learnt for the next one.

    Attributes:
        keys: Instances to lock with the first ones.
        ids: Likewise, by their ids.
        channels: Channels to lock with the first ones.
        names: Names of channels that are not there, to lock with the first ones.
        is_careful: Whether some value is refused, so that savepoints are worth their round trips.
    """

    def __init__(self) -> None:
        self.keys: set[int] = set()
        self.ids: set[str] = set()
        self.channels: set[str] = set()
        self.names: set[str] = set()
        self.is_careful = False


class PostgresTx:
    """A `romancy.storage.tx.Tx` on a connection.

    Locks are waited for in one order only: instances by their keys, then new instances by their ids, then channels by
    their names, then names that have no channel yet. A lock that is wanted out of that order is taken if nobody has it;
    otherwise the transaction begins again, and takes it in its place. So two transactions never wait for each other.

    Attributes:
        fenced: The session that was made sure of, and whether it is live; None: none was.
    """

    def __init__(
        self,
        connection: asyncpg.Connection[Any],
        now: int,
        present: int | None,
        plan: Plan,
        *,
        is_waiting: bool = True,
    ) -> None:
        """Prepare, within a transaction that has begun.

        Args:
            connection: Where.
            now: The present.
            present: By what sessions are judged; None: by the server.
            plan: What earlier attempts have learnt, and what this one learns.
            is_waiting: Whether to wait for others' locks, in their order; if not, `TryAgainError` is raised instead.
        """
        self._connection = connection
        self.now = now
        self.present = present
        self._plan = plan
        self._is_waiting = is_waiting
        self._highest: int | None = None
        self._locked: set[int] = set()
        self.fenced: tuple[int, bool] | None = None
        self.may_be_done = False
        self._is_past_instances = False
        self._channels_locked: set[str] = set()
        self._names_locked: set[str] = set()

    async def rows(self, sql: Statement, *parameters: object) -> Rows:
        """Execute a statement and return its rows."""
        found: Rows = await self._fetch(translate(sql), *parameters)
        return found

    async def row(self, sql: Statement, *parameters: object) -> tuple[Any, ...] | None:
        """Execute a statement and return its first row."""
        found: Rows = await self._fetch(translate(sql), *parameters)
        return found[0] if found else None

    async def run(self, sql: Statement, *parameters: object) -> int:
        """Execute a statement and return how many rows it has touched."""
        status = await self._execute(translate(sql), *parameters)
        return int(status.rpartition(" ")[2])

    async def write(self, *batches: tuple[Batch, Sequence[Sequence[object]]]) -> None:
        """Execute batches, in one statement."""
        asked = [(batch, rows) for batch, rows in batches if rows]
        if asked:
            text = together(tuple(batch for batch, _ in asked))
            await self._execute(text, *(column for batch, rows in asked for column in arrays(rows, batch.types)))

    async def insert(self, batch: Batch, rows: Sequence[Sequence[object]]) -> Rows:
        """Execute a batch and return what it returns; instances are locked after it only if nobody has them."""
        self._is_past_instances = True
        found: Rows = await self._fetch(batch.postgres, *arrays(rows, batch.types))
        return found

    async def fence(self, session: int) -> bool:
        """Say whether a session is live, and keep it so; that may have been asked for when the transaction began."""
        if self.fenced is None or self.fenced[0] != session:
            self.fenced = session, await self.row(sessions.FENCE, self.present, session) is not None
        return self.fenced[1]

    async def lock(self, keys: Iterable[int] = (), ids: Iterable[str] = ()) -> dict[int, Row]:
        """Read and lock instances; what an earlier attempt has wanted later is locked with the first ones."""
        asked_keys, asked_ids = set(keys), {id for id in ids if "\0" not in id}  # which no text there contains
        if not asked_keys and not asked_ids:
            return {}
        plan = self._plan
        wanted_keys, wanted_ids = asked_keys, asked_ids
        is_first = self._highest is None and not self._is_past_instances
        if is_first:
            wanted_keys, wanted_ids = asked_keys | plan.keys, asked_ids | plan.ids
        text, *parameters = _locking(sorted(wanted_keys), sorted(wanted_ids))
        if not self._is_waiting or (not is_first and not self._is_in_order(wanted_keys, wanted_ids)):
            text = without_waiting(text)
        try:
            found = await self._fetch(text, *parameters)
        except asyncpg.LockNotAvailableError as error:
            plan.keys |= asked_keys
            plan.ids |= asked_ids
            raise TryAgainError("others hold what this transaction needs") from error
        rows = {row[0]: Row._make(row) for row in found}
        self._locked |= rows.keys()
        if rows:
            self._highest = max(*rows, self._highest or 0)
        return {key: row for key, row in rows.items() if key in asked_keys or row.id in asked_ids}

    async def channels(self, names: Iterable[str]) -> dict[str, ChannelRow]:
        """Read and lock channels; direct ones stay so and need no lock, and of an absent one the name is locked."""
        asked = set(names)
        if not asked:
            return {}
        self._is_past_instances = True
        found = await self._channels(asked)
        if absent := asked - found.keys():
            await self._lock_names(absent)
            found |= await self._channels(absent)
        return found

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T | Refused:
        """Do a part: at first without a savepoint, and if a value is refused, all again with one."""
        if not self._plan.is_careful:
            try:
                return await work()
            except REFUSALS as error:
                self._plan.is_careful = True
                raise TryAgainError("a value was refused") from error
        await self._connection.execute("SAVEPOINT attempt")
        try:
            result = await work()
        except REFUSALS as error:
            await self._connection.execute("ROLLBACK TO attempt; RELEASE attempt")
            return Refused(f"{type(error).__name__}: {error}")
        await self._connection.execute("RELEASE attempt")
        return result

    async def _fetch(self, text: str, *parameters: object) -> list[Any]:
        return await self._connection.fetch(text, *parameters)

    async def _execute(self, text: str, *parameters: object) -> str:
        return await self._connection.execute(text, *parameters)

    def _is_in_order(self, keys: set[int], ids: set[str]) -> bool:
        """Tell whether nothing has to be waited for that is before something which is locked already."""
        new = keys - self._locked
        if not new and not ids:
            return True
        return not ids and not self._is_past_instances and (self._highest is None or min(new) > self._highest)

    async def _channels(self, names: set[str]) -> dict[str, ChannelRow]:
        """Read channels, and lock those that are not direct."""
        found = {row[0]: ChannelRow._make(row) for row in await self.rows(topics.CHANNELS, sorted(names))}
        shared = {name for name, row in found.items() if row.mode != ChannelMode.DIRECT}
        if shared <= self._channels_locked:
            return found
        is_first = self._is_waiting and not self._channels_locked and not self._names_locked
        wanted = sorted(shared | self._plan.channels if is_first else shared)
        text = translate(topics.LOCK_CHANNELS)
        try:
            locked = await self._fetch(text if is_first else without_waiting(text), wanted)
        except asyncpg.LockNotAvailableError as error:
            self._plan.channels |= shared
            raise TryAgainError("others hold channels that this transaction needs") from error
        self._channels_locked |= shared
        return found | {row[0]: ChannelRow._make(row) for row in locked if row[0] in shared}

    async def _lock_names(self, names: set[str]) -> None:
        """Keep others from making channels of these names."""
        new = names - self._names_locked
        if self._is_waiting and not self._names_locked:
            new |= self._plan.names
            await self._fetch(_LOCK_NAMES, _numbers_of(new))
        elif new and not (await self._fetch(_TRY_LOCK_NAMES, _numbers_of(new)))[0][0]:
            self._plan.names |= new
            raise TryAgainError("others are making channels that this transaction needs")
        self._names_locked |= new


def _numbers_of(names: Iterable[str]) -> list[int]:
    """Return the numbers by which PostgreSQL locks channels that are not there, in the order of locking."""
    digests = (hashlib.blake2b(b"romancy channel " + name.encode(), digest_size=8).digest() for name in names)
    return sorted(int.from_bytes(digest, signed=True) for digest in digests)


def _locking(keys: list[int], ids: list[str]) -> tuple[Any, ...]:
    """Return the statement that reads and locks instances in the order of their keys, and its parameters."""
    if not ids:
        return translate(instances.ROWS_BY_KEYS), keys
    if not keys:
        return translate(instances.ROWS_BY_IDS), ids
    return translate(instances.ROWS_BY_KEYS_AND_IDS), keys, ids
