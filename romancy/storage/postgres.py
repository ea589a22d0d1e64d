"""Everything in a PostgreSQL schema, for any number of processes on any number of machines."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from romancy.core.records import Accepted, Claims, Creation, Refused
from romancy.errors import StorageError
from romancy.storage import claims, instances, postgres_plain
from romancy.storage.gathering import Gathering
from romancy.storage.outages import Outages
from romancy.storage.plain import NOTHING_ASKED, answers_of
from romancy.storage.postgres_clock import ServerClock, monotonic
from romancy.storage.postgres_connections import Connections
from romancy.storage.postgres_dialect import fence
from romancy.storage.postgres_guests import Guests
from romancy.storage.postgres_listener import Listener
from romancy.storage.postgres_schema import prepare
from romancy.storage.postgres_settings import settings_of
from romancy.storage.postgres_transaction import PostgresTransaction
from romancy.storage.postgres_transactions import Transactions
from romancy.storage.postgres_tx import Plan, PostgresTx
from romancy.storage.sql_storage import SqlStorage, nobody, spares_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import asyncpg

    from romancy.activities.transaction import Scope
    from romancy.core.clock import Clock
    from romancy.core.records import Elder, Entry, Instance, NewInstance, Rejected
    from romancy.storage.postgres_transactions import Begun
    from romancy.storage.sql_storage import Work
    from romancy.storage.tx import Tx

T = TypeVar("T")

_SHORTLY = 20_000
"""Microseconds after which to look again for what could not be claimed because others were at it."""
_OFTEN = timedelta(seconds=1)
_RARELY = timedelta(seconds=10)
"""Where notifications come."""
_MEASUREMENTS = 3
_MEASURE = "SELECT clock_timestamp()"


class PostgresStorage(SqlStorage[PostgresTransaction]):
    """Keep everything in a schema of a PostgreSQL database (14 or later); the `Storage` for several processes.

    Args:
        url: ``postgresql://user:password@host:port/database``, as libpq reads it; it may have the options ``schema``,
            ``pooler=1`` and ``listen=0``, which win over the arguments.
        schema: Where the tables are.
        clock: Tells the instants that are stored and compared, and judges sessions; by default the server's clock does.
        pool_size: How many connections to hold at most, besides the one that listens.
        transactions_at_once: How many transactions to have open at a time.
        pooler: The connections go through PgBouncer or the like, in transaction pooling.
        direct_dsn: Past that pooler, for the connection that listens; without it there are no notifications.
        listen: Whether to be woken by notifications; without them, what other processes do is noticed by polling.

    Raises:
        StorageError: The URL or an option can't be understood.
    """

    def __init__(
        self,
        url: str,
        *,
        schema: str = "romancy",
        clock: Clock | None = None,
        pool_size: int = 8,
        transactions_at_once: int = 4,
        pooler: bool = False,
        direct_dsn: str | None = None,
        listen: bool = True,
    ) -> None:
        self.settings = settings_of(
            url,
            schema=schema,
            pooler=pooler,
            direct_dsn=direct_dsn,
            listen=listen,
            pool_size=pool_size,
            transactions_at_once=transactions_at_once,
        )
        self._server_clock = ServerClock()
        self._is_clock_given = clock is not None
        self.clock: Clock = clock or self._server_clock
        self.transactions_at_once = transactions_at_once
        self._outages = Outages(self.settings.name)
        self._connections = Connections(self.settings)
        self._transactions = Transactions(self._connections, self._outages)
        self._listener = Listener(self.settings, self._outages)
        self._guests = Guests(self)
        self._insert = Gathering(self._insert_all)
        self._was_opened = self._is_open = False

    async def open(self, *, migrate: bool = True) -> None:
        """Connect, and bring the schema up to date under a lock (or only verify it).

        Raises:
            SchemaVersionError: The schema is newer than this romancy, or holds something else, or ``migrate`` is off
                and it is older. It is not touched.
            StorageError: The database can't be reached.
        """
        if self._was_opened:
            raise StorageError(f"{self.settings.name}: the storage was opened before; make a new one")
        self._was_opened = self._is_open = True
        settings = self.settings
        try:
            await self._transactions.transact(
                lambda begun: prepare(begun.connection, settings.name, settings.schema, migrate=migrate)
            )
            await self._transactions.look(self._measure)
        except BaseException:
            await self.close()
            raise
        self._listener.start()

    async def close(self) -> None:
        """Finish what is under way, and close all connections. Safe to call twice."""
        self._is_open = False
        await self._guests.close()
        await self._transactions.close()
        await self._listener.close()
        await self._connections.close()

    async def create(self, new: NewInstance, on_conflict: Literal["raise", "attach", "restart"] = "raise") -> Creation:
        """Create an instance; a restarted one gets a new key. Those that are asked for at one time share a transaction.

        Raises:
            InstanceAlreadyExistsError: The id is taken, and ``on_conflict`` is ``"raise"``.
            InstanceRunningError: ``"restart"``, and the instance has not ended.
        """
        if await self._joined() is None and (created := await self._insert(new)) is not None:
            return Creation(created, is_new=True)
        return await super().create(new, on_conflict)

    async def _insert_all(self, news: Sequence[NewInstance]) -> Sequence[Instance | None]:
        """Insert what can be, in one transaction; None: not this one, alone it may turn out why."""

        async def work(tx: Tx) -> list[Instance] | Refused:
            return await tx.attempt(lambda: instances.insert(tx, news))

        inserted = await self._write(work)
        if isinstance(inserted, Refused):
            return [None] * len(news)
        self._listener.notify()
        found = {instance.execution_id: instance for instance in inserted}
        return [found.pop(new.execution_id, None) for new in news]

    async def claim(self, session: int, definitions: Sequence[tuple[str, str]], build: str, *, limit: int) -> Claims:
        """Take ownership of instances that are due.

        Atomic: two sessions never claim the same instance. What others are just writing to is passed over.

        Returns:
            At most ``limit`` claims, highest priority first, then earliest ``wake_at``, then oldest.

        Raises:
            SessionLostError: The session is dead.
        """
        # Looking takes no locks and no transaction: most looks find nothing.
        keys, next_due = await self._read(lambda tx: claims.due(tx, session, definitions, build, limit=limit))
        if not keys:
            return Claims([], next_due)
        found = await self._write(lambda tx: claims.take(tx, session, keys, build), relying_on=session)
        if len(found) < len(keys) and (next_due is None or next_due > self.clock.now()):
            next_due = self.clock.now() + _SHORTLY
        return Claims(found, next_due)

    async def commit(self, session: int, entries: Sequence[Entry]) -> list[Accepted | Rejected | Refused]:
        """Write what turns ask for: each entry whole or not at all. Idempotent.

        Returns:
            One answer per entry, in order.

        Raises:
            SessionLostError: The session is dead; nothing is written, or nothing more.
        """
        answers = await self._commit(session, entries)
        if any(map(_concerns_others, entries, answers)):
            self._listener.notify()
        return answers

    async def _commit(self, session: int, entries: Sequence[Entry]) -> list[Accepted | Rejected | Refused]:
        """Write what can be written by one statement so, and everything else in a transaction that decides."""
        if not postgres_plain.is_possible(entries):
            return await super().commit(session, entries)
        written = await self._write_at_once(lambda tx: postgres_plain.write(tx, session, entries))
        if len(written) == len(entries):
            return [NOTHING_ASKED] * len(entries)
        left = [entry for entry in entries if entry.key not in written]
        return answers_of(entries, written, await super().commit(session, left))

    async def _renew(self, session: int, ttl: timedelta) -> tuple[Elder, int | None]:
        sent = monotonic()
        elder, server = await super()._renew(session, ttl)
        if server is not None:
            self._server_clock.measured(server, sent, monotonic())
        return elder, server

    async def close_session(self, session: int) -> None:
        """End the session and free what it owns, claimable at once where it was due. Safe to call twice."""
        await super().close_session(session)
        self._listener.notify()

    async def reap_sessions(self, is_gone: Callable[[str], bool] = nobody) -> int:
        """Declare expired sessions dead, the caller's own too, and those of ended processes; free what they own.

        Returns:
            How many instances were freed.
        """
        if freed := await super().reap_sessions(is_gone):
            self._listener.notify()
        return freed

    async def block_unserved(self, *, due_before: int, is_spared: Callable[[str, str], bool] = spares_nothing) -> int:
        """Block unowned instances that were due before that instant and that no live session serves.

        Returns:
            How many were blocked.
        """
        if blocked := await super().block_unserved(due_before=due_before, is_spared=is_spared):
            self._listener.notify()
        return blocked

    async def transaction(self, scope: Scope, *, limit: timedelta) -> PostgresTransaction:
        """Begin a transaction for an activity's own statements, on a connection of its own.

        Raises:
            NonRetryableError: There is only a pooler.
            StorageError: It can't begin.
        """
        self._check_open()
        transaction = await self._guests.begin(limit.total_seconds())
        scope.joined = transaction
        return transaction

    async def wait_for_change(self, timeout: timedelta) -> bool:
        """Return True soon after another process has said that it has written something for others.

        A notification that came since the last call counts; False when the time is over.
        """
        self._check_open()
        return await self._listener.wait(timeout.total_seconds())

    def _tx(self, connection: asyncpg.Connection[Any], plan: Plan) -> PostgresTx:
        return PostgresTx(connection, *self.present(), plan)

    @property
    def poll_interval(self) -> timedelta:
        """How often to look at the database although nothing says that it has changed."""
        return _RARELY if self._listener.is_listening else _OFTEN

    def present(self) -> tuple[int, int | None]:
        """Return the present, and by what sessions are judged: None stands for the server, if no clock was given."""
        now = self.clock.now()
        return now, now if self._is_clock_given else None

    async def _measure(self, connection: asyncpg.Connection[Any]) -> None:
        await connection.fetchval(_MEASURE)  # the first time it is parsed, and looked up
        for _ in range(_MEASUREMENTS):
            sent = monotonic()
            server = await connection.fetchval(_MEASURE)
            self._server_clock.measured(server, sent, monotonic())

    async def _write(self, work: Work[T], *, relying_on: int | None = None) -> T:
        plan = Plan()

        async def whole(begun: Begun) -> T:
            tx = self._tx(begun.connection, plan)
            tx.may_be_done = begun.may_be_done
            if relying_on is not None:
                tx.fenced = relying_on, begun.status == "SELECT 1"
            return await work(tx)

        first = "" if relying_on is None else fence(relying_on, self.present()[1])
        return await self._transactions.transact(whole, first)

    async def _write_at_once(self, work: Work[T]) -> T:
        return await self._read(work)  # which is no different there: each statement commits by itself

    async def _read(self, work: Work[T]) -> T:
        return await self._transactions.look(lambda connection: work(self._tx(connection, Plan())))

    async def _progress(self, work: Work[T]) -> T:
        """Write for a client, within its transaction, if it has one, and say so to other processes."""
        joined = await self._joined()
        result = await (self._write(work) if joined is None else joined.run(work))
        self._listener.notify()
        return result

    def _check_open(self) -> None:
        if not self._is_open:
            raise StorageError(f"{self.settings.name}: the storage is not open; call open() first")


def _concerns_others(entry: Entry, answer: Accepted | Rejected | Refused) -> bool:
    """Say whether another process may wait for what an entry has done."""
    if not isinstance(answer, Accepted):
        return False
    is_left = entry.is_freed or entry.status.is_closed
    return bool(is_left or answer.recipients or answer.has_topics or answer.ended)
