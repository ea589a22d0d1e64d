"""Connections to a PostgreSQL server: how they are set up, and the pool of those that anybody may use."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import asyncpg

from romancy.errors import StorageError
from romancy.storage.outages import explain
from romancy.storage.postgres_errors import RAISED, is_lost

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from romancy.storage.postgres_settings import Settings

CONNECT_LIMIT = 3.0
"""Seconds that connecting may take."""
COMMAND_LIMIT = 5.0
"""Seconds after which an answer is not waited for any longer."""

# Below half the shortest sensible life of a session: who is stopped in a transaction must not hold up those who take
# over. The planner's settings keep a plan that was made for small tables right when they are large.
_SETTINGS = {
    "statement_timeout": "4s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "2s",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
}
_TRANSACTION_TIMEOUT = {"transaction_timeout": "4s"}
KEEPALIVES = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
"""For the server, by which it notices that this process has vanished."""
_TRANSACTION_TIMEOUT_SINCE = 17
_EPOCH = 946_684_800_000_000
"""PostgreSQL's, 2000-01-01, in epoch microseconds."""


def _encode(instant: int) -> tuple[int]:
    return (instant - _EPOCH,)


def _decode(value: tuple[int]) -> int:
    return value[0] + _EPOCH


async def connect(
    dsn: str, *, is_pooled: bool = False, server_settings: dict[str, str] | None = None
) -> asyncpg.Connection[Any]:
    """Open a connection on which ``timestamptz`` is epoch microseconds.

    Args:
        dsn: Whom to connect to.
        is_pooled: Through a pooler: nothing of the connection lasts longer than a transaction.
        server_settings: What to set for the connection, besides its name.

    Raises:
        asyncpg.PostgresError: The server refuses.
        OSError: It can't be reached, or not in time.
    """
    connection: asyncpg.Connection[Any] = await asyncpg.connect(
        dsn,
        timeout=CONNECT_LIMIT,
        command_timeout=COMMAND_LIMIT,
        statement_cache_size=0 if is_pooled else 1000,
        max_cached_statement_lifetime=0,
        max_cacheable_statement_size=0,
        server_settings={"application_name": "romancy", **(server_settings or {})},
    )
    try:
        async with asyncio.timeout(CONNECT_LIMIT):
            _limit_silence(connection)
            # In a transaction: the lookup takes two steps, which a pooler might give to two servers.
            async with connection.transaction():
                await connection.set_type_codec(
                    "timestamptz", schema="pg_catalog", encoder=_encode, decoder=_decode, format="tuple"
                )
    except BaseException:
        connection.terminate()
        raise
    return connection


def _limit_silence(connection: asyncpg.Connection[Any]) -> None:
    """Have the kernel give up a TCP connection whose other end has gone silent."""
    transport: asyncio.BaseTransport | None = getattr(connection, "_transport", None)
    found = None if transport is None else transport.get_extra_info("socket")
    if found is None or found.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(COMMAND_LIMIT * 1000))


class Connections:
    """A pool of connections: at most so many, each used by one task at a time.

    A connection of which anything is in doubt is thrown away, and with a lost one all that are idle: the next attempt
    is made on a connection that is new.

    Attributes:
        slots: To be held while a connection is used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.slots = asyncio.Semaphore(settings.pool_size)
        self._idle: list[asyncpg.Connection[Any]] = []
        self._is_open = True

    @property
    def begin_script(self) -> str:
        """What begins a transaction, by the simple protocol."""
        if not self.settings.pooler:
            return "BEGIN"
        given = {"search_path": self.settings.schema, **_SETTINGS}
        return "; ".join(["BEGIN", *(f"SET LOCAL {name} = '{value}'" for name, value in given.items())])

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncGenerator[asyncpg.Connection[Any]]:
        """Lend a connection, to whoever has a slot; what is raised in the block makes it one that is thrown away.

        Raises:
            StorageError: The storage is closed.
            asyncpg.PostgresError: The server refuses a new connection.
            OSError: It can't be reached, or not in time.
        """
        if not self._is_open:
            raise StorageError(f"{self.settings.name}: the storage is not open; call open() first")
        connection = await self._get()
        try:
            yield connection
        except BaseException as error:
            connection.terminate()
            if is_lost(error):
                self.drop()
            raise
        if self._is_open and not connection.is_closed() and not connection.is_in_transaction():
            self._idle.append(connection)
        else:
            connection.terminate()

    def drop(self) -> None:
        """Throw away what is idle: the server may have gone."""
        while self._idle:
            self._idle.pop().terminate()

    async def close(self) -> None:
        """Close what is idle, and what is in use as soon as it is given back. Safe to call twice."""
        self._is_open = False
        idle, self._idle = self._idle, []
        for connection in idle:
            try:
                await connection.close(timeout=1)
            except RAISED:
                connection.terminate()

    async def _get(self) -> asyncpg.Connection[Any]:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        settings = self.settings
        if settings.pooler:
            return await connect(settings.dsn, is_pooled=True)
        given = {"search_path": settings.schema, **_SETTINGS, **KEEPALIVES, "tcp_user_timeout": "5s"}
        connection = await connect(settings.dsn, server_settings=given)
        if connection.get_server_version().major >= _TRANSACTION_TIMEOUT_SINCE:
            try:
                await connection.execute("; ".join(f"SET {n} = '{v}'" for n, v in _TRANSACTION_TIMEOUT.items()))
            except BaseException:
                connection.terminate()
                raise
        return connection


def unreachable(name: str, error: BaseException) -> StorageError:
    """Make the error that a caller gets when the database can't be reached."""
    failure = StorageError(f"{name}: {explain(error)}")
    failure.__cause__ = error
    return failure
