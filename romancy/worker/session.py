"""A worker's registration in the database, and the duties that every worker shares."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import TYPE_CHECKING

from romancy.core.clock import MICROSECONDS
from romancy.errors import SessionLostError, StorageError
from romancy.worker.process import is_gone

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from romancy.core.clock import Clock
    from romancy.core.records import Elder, SessionInfo
    from romancy.storage.protocol import Storage

_logger = logging.getLogger("romancy")
_LONGEST_PAUSE = 2.0


def lease_clock() -> float:
    """Return the seconds since some instant; where that is possible, those in which the machine slept count."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.monotonic()


class Session:
    """Keep one session alive; when it is lost, say so and register anew.

    A session that was not renewed for as long as it lives is given up by its owner too: by then another worker may have
    declared it dead. That is so when the database can't be reached, and when this process or its machine was stopped.
    """

    def __init__(self, storage: Storage, info: SessionInfo, ttl: timedelta, on_lost: Callable[[], None]) -> None:
        self._storage = storage
        self._info = info
        self._ttl = ttl
        self._on_lost = on_lost
        self._lost = asyncio.Event()
        self._elder: Elder | None = None
        self._renewed = 0.0
        self.id: int | None = None

    def is_live(self) -> bool:
        """Tell whether the session certainly lives, without asking the database; if not, it is lost."""
        if self.id is not None and lease_clock() - self._renewed >= self._ttl.total_seconds():
            _logger.warning("session %d was not renewed for %s: it may be dead", self.id, self._ttl)
            self.lose(self.id)
        return self.id is not None

    def is_on_duty(self) -> bool:
        """Tell whether this worker has the duties that one does for all: the oldest session's.

        So has one that does not know yet, and one that finds that the oldest's process has ended.
        """
        elder = self._elder
        return elder is None or elder.session == self.id or is_gone(elder.process)

    async def open(self) -> int:
        """Register, and return the session's number."""
        self._elder = None
        begun = lease_clock()
        self.id = await self._storage.open_session(self._info, self._ttl)
        self._renewed = begun  # it lives from when the database was asked, at the earliest
        self._lost.clear()
        return self.id

    async def close(self) -> None:
        """Deregister and free everything owned."""
        if self.id is not None:
            await self._storage.close_session(self.id)
            self.id = None

    def lose(self, session: int) -> None:
        """Note that a session is dead; what it owned is another's.

        A call that was under way when the loss was noticed says so again, when another session is open: that one lives.
        """
        if self.id == session:
            self.id = None
            self._lost.set()
            self._on_lost()

    async def keep(self, on_open: Callable[[int], None]) -> None:
        """Renew the session for ever, three times in its life; register anew after a loss."""
        interval = self._ttl.total_seconds() / 3
        while True:
            if self.id is None:
                try:
                    on_open(await self.open())
                except StorageError as exc:
                    _logger.warning("registering a session failed, trying again: %s", exc)
                    await asyncio.sleep(min(interval, 1.0))
                    continue
            try:
                async with asyncio.timeout(interval):  # `wait_for` loses a cancellation that comes with the event
                    await self._lost.wait()
                continue
            except TimeoutError:
                pass
            session = self.id
            if session is None:
                continue
            begun = lease_clock()
            try:
                self._elder = await self._storage.renew_session(session, self._ttl)
                self._renewed = begun
            except SessionLostError as exc:
                _logger.warning("%s", exc)
                self.lose(session)
            except StorageError as exc:
                _logger.warning("renewing session %d failed: %s", session, exc)
                self.is_live()


class _Patience:
    """Remember since when each definition has had no worker, as far as this one has seen."""

    def __init__(self, grace: timedelta) -> None:
        self._grace = grace.total_seconds()
        self._since: dict[tuple[str, str], float] = {}
        self._seen: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Begin a look: what is not seen in it is served again."""
        self._since = {definition: self._since[definition] for definition in self._seen}
        self._seen = set()

    def is_spared(self, workflow: str, version: str) -> bool:
        """Tell whether a definition that nobody serves has been so for too short a time to say so."""
        definition = (workflow, version)
        self._seen.add(definition)
        return time.monotonic() - self._since.setdefault(definition, time.monotonic()) < self._grace


async def housekeep(
    storage: Storage,
    clock: Clock,
    ttl: timedelta,
    grace: timedelta,
    *,
    is_on_duty: Callable[[], bool],
    on_freed: Callable[[], None],
) -> None:
    """Declare dead sessions dead and block what nobody serves, while on duty, at least three times in a session's life.

    An instance is blocked when it has been due, and its definition without a worker, for the grace time: a worker that
    is being replaced, or a clock that has jumped, blocks nothing.
    """
    patience = _Patience(grace)
    pause = min(ttl.total_seconds() / 3, _LONGEST_PAUSE)
    while True:
        if not is_on_duty():
            await asyncio.sleep(pause)
            continue
        try:
            if await storage.reap_sessions(is_gone):
                on_freed()
            due_before = clock.now() - round(grace.total_seconds() * MICROSECONDS)
            patience.begin()
            await storage.block_unserved(due_before=due_before, is_spared=patience.is_spared)
        except StorageError as exc:
            _logger.warning("housekeeping failed, trying again: %s", exc)
        await asyncio.sleep(pause)
