"""Group commit: all entries of a process that are ready go into one transaction."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from romancy.core.records import Accepted, Refused, Rejected
from romancy.errors import SessionLostError, StorageError

if TYPE_CHECKING:
    from romancy.core.records import Entry
    from romancy.storage.protocol import Storage
    from romancy.worker.watching import Watching

_logger = logging.getLogger("romancy")
_BATCH_LIMIT = 1_000
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0

Answer: TypeAlias = Accepted | Rejected | Refused
OnAnswer: TypeAlias = Callable[[Answer], None]


class Owner(Protocol):
    """The run that an entry is of."""

    is_gone: bool


_Item: TypeAlias = "tuple[Entry, Owner, OnAnswer]"


class Committer:
    """Write entries in batches, one batch at a time; the next is gathered meanwhile.

    An entry's answer is handed over once, after the acknowledgement. A batch whose acknowledgement is lost is
    offered again, unchanged, until it is answered or the session is lost: then its entries get no answer, and
    ``on_lost`` is told which session that was. While that lasts it holds ``ownership``, which a claim takes too.
    """

    def __init__(self, storage: Storage, on_lost: Callable[[int], None], watching: Watching) -> None:
        self._storage = storage
        self._on_lost = on_lost
        self._watching = watching
        self.ownership = asyncio.Lock()
        self._queue: list[_Item] = []
        self._task: asyncio.Task[None] | None = None
        self.session: int | None = None
        self.batches = 0
        self.entries = 0

    def submit(self, entry: Entry, owner: Owner, on_answer: OnAnswer) -> None:
        """Queue an entry for the next batch; it is left out if its run is gone by then."""
        self._queue.append((entry, owner, on_answer))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._commit_all(), context=contextvars.Context())

    async def flush(self) -> None:
        """Wait until nothing is queued or under way."""
        while self._task is not None:
            await asyncio.shield(self._task)

    def discard(self) -> None:
        """Forget what is queued; a batch under way is not interrupted."""
        self._queue.clear()

    def abandon(self) -> None:
        """Forget all of it, a batch under way too: whether that is written is the database's to know."""
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    async def _commit_all(self) -> None:
        try:
            while self._queue:
                batch, self._queue = self._queue[:_BATCH_LIMIT], self._queue[_BATCH_LIMIT:]
                session = self.session
                if session is None:
                    continue
                batch = [item for item in batch if not item[1].is_gone]
                if not batch:
                    continue
                begun_at = time.perf_counter()
                try:
                    answers = await self._commit(session, batch)
                except SessionLostError:
                    self._on_lost(session)  # what is queued may be of the session that was opened since
                    continue
                if answers is None or self.session != session:
                    continue
                self.batches += 1
                self.entries += len(batch)
                self._watching.batch_committed(len(batch), time.perf_counter() - begun_at)
                for (entry, _, on_answer), answer in zip(batch, answers, strict=True):
                    try:
                        on_answer(answer)
                    except Exception:
                        _logger.exception("handling the commit of instance key %d failed", entry.key)
        finally:
            self._task = None

    async def _commit(self, session: int, batch: list[_Item]) -> list[Answer] | None:
        """Offer a batch until it is answered; None if the session was given up meanwhile."""
        try:
            return await self._storage.commit(session, [entry for entry, _, _ in batch])
        except SessionLostError:
            raise
        except Exception as exc:  # noqa: BLE001 - an entry without an answer would leave its run stuck
            _warn(batch, exc)
        # What the lost batch may have freed must not be claimed before it is answered: the second offer would free
        # it again, under its new owner. What was claimed just before has replaced its run, and is left out.
        async with self.ownership:
            batch[:] = [item for item in batch if not item[1].is_gone]
            pause = _FIRST_PAUSE
            while self.session == session:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                try:
                    return await self._storage.commit(session, [entry for entry, _, _ in batch])
                except SessionLostError:
                    raise
                except Exception as exc:  # noqa: BLE001 - likewise
                    _warn(batch, exc)
        return None


def _warn(batch: list[_Item], exc: Exception) -> None:
    if isinstance(exc, StorageError):
        _logger.warning("commit of %d entries failed, trying again: %s", len(batch), exc)
    else:
        _logger.error("commit of %d entries failed inside the storage, trying again", len(batch), exc_info=exc)
