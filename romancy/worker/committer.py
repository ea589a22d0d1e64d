"""Group commit: all entries of a process that are ready go into one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from romancy.core.records import Accepted, Refused, Rejected
from romancy.errors import SessionLostError, StorageError

if TYPE_CHECKING:
    from romancy.core.records import Entry
    from romancy.storage.protocol import Storage

_logger = logging.getLogger("romancy")
_BATCH_LIMIT = 1_000
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0

Answer: TypeAlias = Accepted | Rejected | Refused
OnAnswer: TypeAlias = Callable[[Answer], None]


class Committer:
    """Write entries in batches, one batch at a time; the next is gathered meanwhile.

    An entry's answer is handed over once, after the acknowledgement. A batch whose acknowledgement is lost is
    offered again, unchanged, until it is answered or the session is lost: then its entries get no answer, and
    ``on_lost`` is called.
    """

    def __init__(self, storage: Storage, on_lost: Callable[[], None]) -> None:
        self._storage = storage
        self._on_lost = on_lost
        self._queue: list[tuple[Entry, OnAnswer]] = []
        self._task: asyncio.Task[None] | None = None
        self.session: int | None = None
        self.batches = 0
        self.entries = 0

    def submit(self, entry: Entry, on_answer: OnAnswer) -> None:
        """Queue an entry for the next batch."""
        self._queue.append((entry, on_answer))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._commit_all())

    async def flush(self) -> None:
        """Wait until nothing is queued or under way."""
        while self._task is not None:
            await asyncio.shield(self._task)

    def discard(self) -> None:
        """Forget what is queued; a batch under way is not interrupted."""
        self._queue.clear()

    async def _commit_all(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue[:_BATCH_LIMIT], self._queue[_BATCH_LIMIT:]
                session = self.session
                if session is None:
                    continue
                try:
                    answers = await self._commit(session, [entry for entry, _ in batch])
                except SessionLostError:
                    self._queue.clear()
                    self._on_lost()
                    return
                if answers is None or self.session != session:
                    continue
                self.batches += 1
                self.entries += len(batch)
                for (entry, on_answer), answer in zip(batch, answers, strict=True):
                    try:
                        on_answer(answer)
                    except Exception:
                        _logger.exception("handling the commit of instance key %d failed", entry.key)
        finally:
            self._task = None

    async def _commit(self, session: int, entries: list[Entry]) -> list[Answer] | None:
        """Offer a batch until it is answered; None if the session was given up meanwhile."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._storage.commit(session, entries)
            except SessionLostError:
                raise
            except StorageError as exc:
                _logger.warning("commit of %d entries failed, trying again in %.2f s: %s", len(entries), pause, exc)
            except Exception:
                # An entry without an answer would leave its run stuck: better to be heard of again and again.
                _logger.exception("commit of %d entries failed inside the storage, trying again", len(entries))
            if self.session != session:
                return None
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
