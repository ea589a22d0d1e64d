"""Waiting for instances to end."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from romancy.core.records import Status
from romancy.errors import StorageError

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage

_logger = logging.getLogger("romancy")


class Ended(NamedTuple):
    """How an instance ended (or that it is blocked), as far as is known without asking the database.

    ``definition`` is the name and version of the workflow that its last run had; None: the one that it began with.
    """

    status: Status
    payload: bytes | None
    definition: tuple[str, str] | None = None


_KEPT = 1_000
_KEPT_BYTES = 4_096


class Waiter:
    """One wait for an instance."""

    __slots__ = ("ended", "event", "is_curious")

    def __init__(self, *, is_curious: bool) -> None:
        self.is_curious = is_curious
        self.event = asyncio.Event()
        self.ended: Ended | None = None


class Waiters:
    """Wake those who wait for instances: at once when this process ends one, by polling for all others.

    What has ended lately in this process is remembered: who starts an instance and then waits for it needs no
    look at the database.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._waiters: dict[int, set[Waiter]] = {}
        self._lately: OrderedDict[int, Ended] = OrderedDict()
        self.is_closed = False
        self.stalled: str | None = None

    @property
    def is_used(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters)

    def give_up(self, why: str) -> None:
        """Have those fail who wait now: nothing that they wait for will ever come."""
        self.stalled = why
        self._wake_all()

    def watch(self, key: int, *, is_curious: bool = False) -> Waiter:
        """Begin to wait; the event is set when the instance may have ended or be blocked, or after any look at it."""
        self.stalled = None
        waiter = Waiter(is_curious=is_curious)
        waiter.ended = self._lately.get(key)
        if waiter.ended is not None or self.is_closed:
            waiter.event.set()
        self._waiters.setdefault(key, set()).add(waiter)
        return waiter

    def close(self) -> None:
        """Wake everybody: nothing will be heard of any instance any more."""
        self.is_closed = True
        self._wake_all()

    def _wake_all(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.event.set()

    def unwatch(self, key: int, waiter: Waiter) -> None:
        """Stop waiting."""
        waiters = self._waiters.get(key)
        if waiters is not None:
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[key]

    def instance_changed(self, key: int, status: Status, payload: bytes | None) -> None:
        """Note that this process has ended or blocked an instance."""
        ended = Ended(status, payload)
        self._wake(key, ended)
        # What has failed may be retried, by any process.
        if status.is_closed and status is not Status.FAILED and len(payload or b"") <= _KEPT_BYTES:
            self._lately[key] = ended
            if len(self._lately) > _KEPT:
                self._lately.popitem(last=False)

    def _wake(self, key: int, ended: Ended) -> None:
        for waiter in self._waiters.get(key, ()):
            waiter.ended = ended
            waiter.event.set()

    def look_again(self, key: int) -> None:
        """Have those who wait for an instance ask the database how it stands."""
        for waiter in self._waiters.get(key, ()):
            waiter.event.set()

    def forget(self, key: int) -> None:
        """Forget how an instance ended: it is purged."""
        self._lately.pop(key, None)

    async def poll(self) -> None:
        """Look at all awaited instances once, in one query, which also tells how those have ended that have."""
        keys = list(self._waiters)
        if not keys:
            return
        try:
            standings = await self._storage.standings(keys)
        except StorageError as exc:
            _logger.warning("looking at awaited instances failed, trying again: %s", exc)
            return
        for key in keys:
            standing = standings.get(key)
            if standing is None or standing.status is Status.BLOCKED:
                self.look_again(key)
            elif standing.status.is_closed:
                self._wake(key, Ended(standing.status, standing.payload, (standing.workflow, standing.version)))
            for waiter in self._waiters.get(key, ()):
                if waiter.is_curious:
                    waiter.event.set()
