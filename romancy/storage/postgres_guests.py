"""The connections of activities' transactions: each for one at a time, as its author would make it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg

from romancy.errors import NonRetryableError
from romancy.storage.postgres_connections import CONNECT_LIMIT, unreachable
from romancy.storage.postgres_errors import RAISED
from romancy.storage.postgres_guest import Prepared
from romancy.storage.postgres_transaction import Guest, PostgresTransaction

if TYPE_CHECKING:
    from romancy.storage.postgres import PostgresStorage

_RESET = "RESET ALL; DISCARD TEMP; UNLISTEN *; SELECT pg_advisory_unlock_all()"


class Guests:
    """Begin activities' transactions, on connections that are kept for the next one."""

    def __init__(self, storage: PostgresStorage) -> None:
        self._storage = storage
        self._settings = storage.settings
        self._idle: list[Guest] = []
        self._open: set[PostgresTransaction] = set()
        self._resets: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def begin(self, limit: float) -> PostgresTransaction:
        """Begin a transaction.

        Raises:
            NonRetryableError: There is only a pooler.
            StorageError: It can't begin.
        """
        settings = self._settings
        if settings.own_dsn is None:
            raise NonRetryableError(
                f"{settings.name}: a transactional activity needs a connection of its own, past the pooler: give "
                "PostgresStorage(direct_dsn=)"
            )
        guest = await self._get(settings.own_dsn)
        transaction = PostgresTransaction(self._storage, limit=limit, give_back=self._take_back)
        self._open.add(transaction)
        transaction.ended.add_done_callback(lambda _: self._open.discard(transaction))
        try:
            await transaction.begin(guest)
        except BaseException:
            self._open.discard(transaction)
            raise
        return transaction

    async def close(self) -> None:
        """Wait until the open transactions have ended, and close the connections."""
        self._is_closed = True
        if self._open:
            await asyncio.wait([transaction.ended for transaction in self._open])
        if self._resets:
            await asyncio.wait(self._resets)
        for guest in self._idle:
            guest.connection.terminate()
        self._idle.clear()

    async def _get(self, dsn: str) -> Guest:
        while self._idle:
            guest = self._idle.pop()
            if not guest.connection.is_closed():
                return guest
        try:
            connection: asyncpg.Connection[Any] = await asyncpg.connect(
                dsn, timeout=CONNECT_LIMIT, server_settings={"application_name": "romancy activity"}
            )
        except RAISED as error:
            raise unreachable(self._settings.name, error) from error
        return Guest(connection, Prepared(connection))

    def _take_back(self, guest: Guest, is_sound: bool) -> None:  # noqa: FBT001 - a callback
        if is_sound and not self._is_closed:
            task = asyncio.get_running_loop().create_task(self._reset(guest))
            self._resets.add(task)
            task.add_done_callback(self._resets.discard)
        else:
            guest.connection.terminate()

    async def _reset(self, guest: Guest) -> None:
        """Drop what an author has set on a connection, and keep it."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                await guest.connection.execute(_RESET)
        except RAISED:
            guest.connection.terminate()
        else:
            self._idle.append(guest)
