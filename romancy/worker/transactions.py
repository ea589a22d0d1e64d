"""Transactional activities: whose turn it is to have the database, and how a body and its result commit together."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from romancy.core.events import Event
from romancy.core.records import Accepted, Rejected, Undone
from romancy.errors import SessionLostError, StorageError
from romancy.replay.journal import note_of
from romancy.worker.entries import result_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import timedelta

    from romancy.core.clock import Clock
    from romancy.core.events import Release
    from romancy.core.records import Entry
    from romancy.storage.protocol import Storage, Transaction
    from romancy.worker.bodies import Body
    from romancy.worker.committer import Committer
    from romancy.worker.slot import CommitSlots

T = TypeVar("T")
_logger = logging.getLogger("romancy")


class Transactions:
    """The transactions of a worker's activities: as many at a time as the storage can have open, one on SQLite.

    In this order a body takes the ``gate``, its run's commit slot, and the database. Whoever waits for the gate holds
    nothing, so its run goes on meanwhile; who has it waits for one commit of its run at most, and never for a commit
    while it keeps the database from others.
    """

    def __init__(
        self, storage: Storage, committer: Committer, clock: Clock, limit: timedelta, on_lost: Callable[[int], None]
    ) -> None:
        """Prepare.

        Args:
            storage: The open database.
            committer: Knows the worker's session.
            clock: Stamps results.
            limit: For how long a transaction may be open.
            on_lost: Told which session a commit has found dead.
        """
        self.storage = storage
        self.committer = committer
        self.clock = clock
        self.limit = limit
        self.on_lost = on_lost
        self.gate = asyncio.Semaphore(storage.transactions_at_once)
        self.slots: CommitSlots
        self.on_failure: Callable[[Body, BaseException], None]
        self._open: set[ActivityTransaction] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def listen(self, slots: CommitSlots, on_failure: Callable[[Body, BaseException], None]) -> None:
        """Say who is told of transactions; to be called before any is prepared.

        Args:
            slots: Gives out the runs' commit slots, and takes what was committed.
            on_failure: Takes a body that has ended well and whose transaction could not be committed, and why.
        """
        self.slots = slots
        self.on_failure = on_failure

    def prepare(self, body: Body) -> ActivityTransaction:
        """Return the transaction of an attempt; it begins when the body asks for it. `close` must follow."""
        transaction = ActivityTransaction(self, body)
        self._open.add(transaction)
        return transaction

    def forget(self, transaction: ActivityTransaction) -> None:
        """Note that a transaction will not be begun any more."""
        self._open.discard(transaction)

    def spawn(self, work: Coroutine[object, object, T]) -> asyncio.Task[T]:
        """Do something in a task that `close` waits for, outside of the body's context."""
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Roll back what bodies have left open, and wait for what is being committed or rolled back."""
        for transaction in list(self._open):
            transaction.close("the worker is shutting down")
        while self._tasks:
            await asyncio.wait(self._tasks)


class ActivityTransaction:
    """The transaction of one attempt at an activity, a `romancy.activities.transaction.Scope`.

    Ends in one of two ways: `commit` hands over the result, or `close` rolls back.
    """

    def __init__(self, owner: Transactions, body: Body) -> None:
        self._owner = owner
        self._run = body.run
        self._command = body.command
        self._body = body
        self.is_asked = False
        self.joined: object | None = None
        self.after_commit: list[Callable[[], None]] = []
        self._transaction: Transaction | None = None
        self._beginning: asyncio.Task[Transaction] | None = None
        self._over = ""
        self._error: StorageError | None = None
        self._is_ending = False
        self._holds_gate = False
        self._holds_slot = False

    # -- for the body's tasks ---------------------------------------------------------------------------

    def is_on(self, storage: object) -> bool:
        """Tell whether the transaction is one of this storage."""
        return self._owner.storage is storage

    async def begin(self) -> Transaction:
        """Return the transaction, begun by whoever of the body's tasks asks first.

        Raises:
            StorageError: It can't begin, or it is over.
        """
        self._check()
        if self._transaction is not None:
            return self._transaction
        if self._beginning is None:
            self._beginning = self._owner.spawn(self._begin())
        beginning = self._beginning
        await asyncio.wait([beginning])  # it goes on for the others if this task is cancelled
        self._check()
        if beginning.exception() is not None and self._beginning is beginning:
            self._beginning = None  # the next who asks tries again
        return beginning.result()

    def _check(self) -> None:
        if self._over:
            raise StorageError(
                f"activity {self._command.activity_id} of instance {self._run.id!r} has no transaction any more: "
                f"{self._over}"
            )

    async def _begin(self) -> Transaction:
        owner = self._owner
        await owner.gate.acquire()
        self._holds_gate = True
        try:
            await owner.slots.take(self._run, self._body)
            self._holds_slot = True
            transaction = await owner.storage.transaction(self, limit=owner.limit)
        except BaseException:
            self._release()
            raise
        self._transaction = transaction
        transaction.ended.add_done_callback(self._ended)
        return transaction

    # -- its end ----------------------------------------------------------------------------------------

    def commit(self, release: Release) -> bool:
        """Have what the body has ended in committed with what the body has done, if it has a transaction.

        What follows is told to the run's owner, as for any result; nothing more is to be done by the caller.

        Returns:
            Whether it is; if not, the body never used its transaction.

        Raises:
            StorageError: The transaction is over already, and rolled back.
        """
        self._check()
        if self._transaction is None:
            return False
        if self._error is not None:
            raise self._error
        session = self._owner.committer.session
        if session is None:
            raise StorageError("the worker's session is lost")
        self._over = "it has returned"
        self._is_ending = True
        entry = result_entry(self._run, note_of(release), now=self._owner.clock.now())
        self._owner.spawn(self._commit(self._transaction, session, entry))
        return True

    def close(self, reason: str = "it has ended") -> None:
        """Roll back, unless the result is being committed. Safe to call twice."""
        self._owner.forget(self)
        if self._is_ending:
            return
        self._is_ending = True
        self._over = self._over or reason
        if self._transaction is not None:
            self._owner.spawn(self._roll_back(self._transaction))
        elif self._beginning is not None:
            self._beginning.cancel()
            self._beginning.add_done_callback(_look)

    def _ended(self, ended: asyncio.Future[StorageError | None]) -> None:
        """Note that the transaction is over; if nobody has asked for that, let the others go on."""
        error = ended.exception() or ended.result()
        if not self._is_ending:
            self._error = error if isinstance(error, StorageError) else StorageError(f"the transaction broke: {error}")
            self._release()

    async def _roll_back(self, transaction: Transaction) -> None:
        try:
            await self._undo(transaction)
        finally:
            self._release()

    async def _undo(self, transaction: Transaction) -> None:
        try:
            await transaction.rollback()
        except Exception as exc:  # noqa: BLE001 - the database rolls back by itself what is not committed
            _logger.warning("rolling back activity %s failed: %s", self._command.activity_id, exc)

    async def _commit(self, transaction: Transaction, session: int, entry: Entry) -> None:
        owner, run = self._owner, self._run
        try:
            answer = await transaction.commit(session, entry)
        except SessionLostError:
            await self._undo(transaction)
            owner.on_lost(session)
            self._release()
        except Exception as exc:  # noqa: BLE001 - whatever it is, nobody knows whether it is committed
            message = "nobody knows whether activity %s of instance %s is committed, asking its history: %s"
            _logger.warning(message, self._command.activity_id, run.id, exc)
            await self._undo(transaction)
            await self._recall(entry, exc)
        else:
            self._answered(entry, answer)

    async def _recall(self, entry: Entry, error: Exception) -> None:
        """Find out what has become of a commit whose acknowledgement is lost.

        Should it land after this look, the entry that records the failed attempt does not hold: both have the same
        place in history. Then the run leaves memory, and what is recorded counts.
        """
        (note,) = entry.notes
        try:
            events = await self._owner.storage.history(entry.key, run=entry.run, after=entry.seq - 1)
        except Exception as exc:  # noqa: BLE001 - likewise; whoever claims the run next reads its history
            _logger.warning("reading the history of instance %s failed, claiming it anew: %s", self._run.id, exc)
            self._owner.slots.lose(self._run)
            self._release()
            return
        is_recorded = events[:1] == [Event(entry.seq, entry.turn, entry.stamp, *note)]
        self._answered(entry, Accepted([]) if is_recorded else Undone(error))

    def _answered(self, entry: Entry, answer: Accepted | Rejected | Undone) -> None:
        run = self._run
        if isinstance(answer, Undone):
            self._release()
            self._owner.on_failure(self._body, answer.error)
            return
        if self._body.is_wanted:
            self._body.is_wanted = False
            del run.bodies[self._command.activity_id]
        self._holds_slot = False  # it is freed with the answer
        try:
            self._owner.slots.committed(run, entry, answer)
        finally:
            self._release()
        if isinstance(answer, Accepted):
            for callback in self.after_commit:
                callback()

    def _release(self) -> None:
        """Let the others go on. Safe to call twice."""
        if self._holds_gate:
            self._holds_gate = False
            self._owner.gate.release()
        if self._holds_slot:
            self._holds_slot = False
            self._owner.slots.free(self._run)


def _look(done: asyncio.Task[Transaction]) -> None:
    """Look at how a task ended whose outcome nobody waits for any more, so that it is not reported."""
    if not done.cancelled():
        done.exception()
