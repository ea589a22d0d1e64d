"""The connection on which PostgreSQL tells that other processes have written something."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from romancy.storage.postgres_connections import KEEPALIVES, connect
from romancy.storage.postgres_errors import RAISED

if TYPE_CHECKING:
    import asyncpg

    from romancy.storage.outages import Outages
    from romancy.storage.postgres_settings import Settings

# In seconds.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_CHECK_EVERY = 60.0
_SHORTEST_INTERVAL = 0.002
_SETTINGS = {"synchronous_commit": "off", **KEEPALIVES}  # a notification is written nowhere: nothing to flush


class Listener:
    """Hear of what other processes have written, and tell them what this one has.

    Notifications are a hint: that one is lost, or that the connection is, costs time and nothing else. After a
    connection was lost something may have been missed, so the next one begins as if it had heard something.
    """

    def __init__(self, settings: Settings, outages: Outages) -> None:
        self._settings = settings
        self._outages = outages
        self._channel = f"romancy_{settings.schema}"[:63]
        self._has_changed = asyncio.Event()
        self._is_asked = asyncio.Event()
        self._is_listening = False
        self._own_pid = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def is_listening(self) -> bool:
        """Whether notifications come."""
        return self._is_listening

    def start(self) -> None:
        """Begin to listen, if that is wanted."""
        if self._settings.listen and self._task is None:
            self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Stop listening. Safe to call twice."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def notify(self) -> None:
        """Have other processes told soon. What is asked while that is under way is told once more, for all."""
        self._is_asked.set()

    async def wait(self, timeout: float) -> bool:
        """Wait until another process has told something since the last call, or for so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._has_changed.wait()
        if not self._has_changed.is_set():
            return False
        self._has_changed.clear()
        return True

    async def _keep(self) -> None:
        """Listen, for ever, on one connection after another."""
        pause = _FIRST_PAUSE
        while True:
            connection: asyncpg.Connection[Any] | None = None
            try:
                dsn = self._settings.own_dsn or self._settings.dsn
                connection = await connect(dsn, server_settings=_SETTINGS)
                self._own_pid = connection.get_server_pid()
                await connection.add_listener(self._channel, self._heard)
                self._outages.succeeded()
                self._is_listening = True
                pause = _FIRST_PAUSE
                self._has_changed.set()
                await self._tell(connection)
            except RAISED as error:
                self._outages.failed(error)
            finally:
                self._is_listening = False
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _tell(self, connection: asyncpg.Connection[Any]) -> None:
        """Notify whenever asked, and look now and then whether anybody is there, until the connection is lost."""
        connection.add_termination_listener(self._lost)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY):
                    await self._is_asked.wait()
            if self._is_asked.is_set():
                self._is_asked.clear()
                await connection.execute(f'NOTIFY "{self._channel}"')
                await asyncio.sleep(_SHORTEST_INTERVAL)
            else:
                await connection.execute("SELECT 1")

    def _lost(self, _: object) -> None:
        self._is_asked.set()  # whoever tells notices

    def _heard(self, _: object, pid: int, __: str, ___: object) -> None:
        if pid != self._own_pid:
            self._has_changed.set()
