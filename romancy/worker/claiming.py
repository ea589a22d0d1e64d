"""Claims: which instances a worker takes, and what it may own without knowing."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from romancy.core.records import Claim
from romancy.errors import SessionLostError, StorageError
from romancy.worker import pacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.clock import Clock
    from romancy.core.records import Instance
    from romancy.storage.protocol import Storage
    from romancy.worker.committer import Committer
    from romancy.worker.hot import HotSet
    from romancy.worker.session import Session
    from romancy.worker.settings import WorkerSettings
    from romancy.worker.turns import Turns

_logger = logging.getLogger("romancy")
_CLAIM_LIMIT = 200


class Claiming:
    """Claim what is due for as long as there is room, and take in what this process starts itself.

    Where a claim or a start may have been done and its acknowledgement is lost, the session owns instances that nobody
    here knows of. They are freed before the next claim.

    Attributes:
        wanted: Set it where something may be claimable.
    """

    def __init__(
        self,
        storage: Storage,
        session: Session,
        hot: HotSet,
        turns: Turns,
        committer: Committer,
        *,
        definitions: Sequence[tuple[str, str]],
        build: str,
        clock: Clock,
        settings: WorkerSettings,
    ) -> None:
        self._storage = storage
        self._session = session
        self._hot = hot
        self._turns = turns
        self._committer = committer
        self._definitions = definitions
        self._build = build
        self._clock = clock
        self._settings = settings
        self.wanted = asyncio.Event()
        self._next_due: int | None = None
        self._has_strays = False
        self._is_full = False
        self._starting: set[int] = set()

    # -- what this process starts itself ----------------------------------------------------------------

    def begin_start(self, execution_id: int) -> int | None:
        """Return the session that is to own a new instance from its creation on; None: it is to be claimed.

        While the worker frees what it owns without knowing, it would free that too. `end_start` must follow where it is
        not None.
        """
        session = self._session.id
        if session is None or self._turns.is_draining or self._has_strays or self._room() <= 0:
            return None
        self._starting.add(execution_id)
        return session

    def end_start(self, execution_id: int, created: Instance | None, *, is_lost: bool = False) -> None:
        """Take in an instance that was created as owned; or note that it may have been (``is_lost``)."""
        self._starting.discard(execution_id)
        if is_lost:
            self.lost_sight()
        elif created is not None and created.session is not None:
            if created.session == self._session.id and not self._turns.is_draining:
                self._turns.adopt(Claim(created, [], [], is_first=True))
        else:
            self.wanted.set()

    def lost_sight(self) -> None:
        """Note that the session may own an instance which the worker does not know of."""
        self._has_strays = True
        self.wanted.set()

    @property
    def next_due(self) -> int | None:
        """When the earliest instance is due that nobody owned at the last look, in epoch microseconds."""
        return self._next_due

    # -- what is due ------------------------------------------------------------------------------------

    def room_freed(self) -> None:
        """Note that a run has become idle or has left memory: claim, if there was no room."""
        if self._is_full:
            self._is_full = False
            self.wanted.set()

    def expect(self, wake_at: int | None) -> None:
        """Note that an instance was freed and is due at an instant."""
        if wake_at is not None and (self._next_due is None or wake_at < self._next_due):
            self._next_due = wake_at
            self.wanted.set()

    async def claim_for_ever(self) -> None:
        """Claim whenever something may be due and there is room for it."""
        while True:
            self.wanted.clear()
            room = self._room()
            session = self._session.id
            if session is not None and room > 0:
                try:
                    async with self._committer.ownership:
                        await self._claim(session, min(room, _CLAIM_LIMIT))
                except SessionLostError:
                    self._session.lose(session)
                    continue
                except StorageError as exc:
                    _logger.warning("claiming failed, trying again: %s", exc)
                    self._has_strays = True
                    await asyncio.sleep(pacing.PAUSE_AFTER_FAILURE)
                    continue
                except Exception:
                    self._has_strays = True
                    raise
            await self._wait_for_claimable()

    async def _claim(self, session: int, limit: int) -> None:
        if self._has_strays:
            await self._storage.free_strays(session, [run.key for run in self._hot], list(self._starting))
            self._has_strays = False
        found = await self._storage.claim(session, self._definitions, self._build, limit=limit)
        if self._session.id != session:
            return
        self._next_due = found.next_due
        for claim in found.claims:
            self._turns.adopt(claim)

    async def _wait_for_claimable(self) -> None:
        """Wait until something may be due."""
        timeout = pacing.seconds_between_polls(self._storage, self._settings.poll_interval)
        self._is_full = self._room() <= 0
        if self._next_due is not None and not self._is_full and self._session.id is not None:
            timeout = min(timeout, max(0.0, (self._next_due - self._clock.now()) / 1_000_000))
        try:
            async with asyncio.timeout(timeout):
                await self.wanted.wait()
        except TimeoutError:
            return

    def _room(self) -> int:
        return max(self._settings.hot_limit, self._settings.max_activities) - self._hot.active
