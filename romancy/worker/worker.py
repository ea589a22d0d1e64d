"""A worker: the parts that execute instances, wired, started and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from romancy.core.events import copied_by
from romancy.core.records import SessionInfo
from romancy.core.versions import version_key
from romancy.errors import StorageError
from romancy.replay.execution import Execution
from romancy.worker import pacing
from romancy.worker.activities import ActivityRunner
from romancy.worker.build import build_of, runtime
from romancy.worker.claiming import Claiming
from romancy.worker.committer import Committer
from romancy.worker.deliveries import Deliveries
from romancy.worker.heartbeats import Heartbeats
from romancy.worker.hot import HotSet
from romancy.worker.process import this_process
from romancy.worker.reports import Reports
from romancy.worker.retention import keep_pruning
from romancy.worker.session import Session, housekeep
from romancy.worker.slot import CommitSlots
from romancy.worker.timers import Alarms
from romancy.worker.transactions import Transactions
from romancy.worker.turns import Turns
from romancy.worker.watchdog import Watchdog
from romancy.worker.watching import Watching

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from romancy.core.clock import Clock
    from romancy.core.codec import Codec
    from romancy.core.definitions import Workflow
    from romancy.core.records import Claim, Instance, Status
    from romancy.observers import Observers
    from romancy.replay.execution import Turn
    from romancy.storage.protocol import Storage
    from romancy.worker.hot import HotRun
    from romancy.worker.settings import WorkerSettings

_logger = logging.getLogger("romancy")


class Listener(Protocol):
    """Whoever in this process waits for instances."""

    def instance_changed(self, key: int, status: Status, payload: bytes | None) -> None:
        """Note that an instance has ended or is blocked; ``payload`` is its last event's."""
        ...

    def look_again(self, key: int) -> None:
        """Note that an instance has ended or is blocked; the database knows how."""
        ...


async def _for_ever(duty: Callable[[], Coroutine[object, object, None]]) -> None:
    """Do a duty; when it fails in a way that nobody has thought of, say so and begin it again."""
    while True:
        try:
            await duty()
        except Exception:
            _logger.exception("a duty of the worker failed, beginning it again")
        await asyncio.sleep(pacing.PAUSE_AFTER_FAILURE)


class Worker:
    """Claim instances, run their turns and activities, commit; until it is stopped.

    Owns every task that it starts. Two workers, in one process or two, never own the same instance.
    """

    def __init__(
        self,
        storage: Storage,
        definitions: Sequence[Workflow[..., object]],
        *,
        settings: WorkerSettings,
        codec: Codec,
        clock: Clock,
        listener: Listener,
        observers: Observers,
        stand_ins: Mapping[str, Callable[..., Awaitable[object]]] | None = None,
    ) -> None:
        self._storage = storage
        self._settings = settings
        self._codec = codec
        self._clock = clock
        self._listener = listener
        self._definitions = {(d.name, d.version): d for d in definitions}
        self._newest = {d.name: d for d in sorted(definitions, key=lambda d: version_key(d.version))}
        self._build = settings.build or build_of(definitions)
        info = SessionInfo(
            build=self._build,
            definitions=list(self._definitions),
            runtime=runtime(),
            host=socket.gethostname(),
            pid=os.getpid(),
            process=this_process(),
        )
        self._session = Session(storage, info, settings.session_ttl, self._session_lost)
        self._watchdog = Watchdog(settings.warn_after, min(settings.interrupt_after, settings.session_ttl / 2))
        self._hot = HotSet(settings.hot_limit)
        self._watching = Watching(observers, clock)
        self._reports = Reports(storage, self._watching, self._hot, self._session.is_on_duty)
        self._committer = Committer(storage, self._session.lose, self._watching)
        self._alarms = Alarms(clock, self._rang)
        self._heartbeats = Heartbeats(
            storage,
            codec=codec,
            payload_limit=settings.payload_limit,
            session=lambda: self._session.id,
            on_lost=self._session.lose,
        )
        # While a transaction is open the session can't be renewed: it must not expire meanwhile.
        limit = min(settings.transaction_limit, settings.session_ttl / 3)
        self._transactions = Transactions(storage, self._committer, clock, limit, self._session.lose)
        self._activities = ActivityRunner(
            clock=clock,
            codec=codec,
            retry=settings.retry,
            limit=settings.max_activities,
            payload_limit=settings.payload_limit,
            heart=self._heartbeats,
            transactions=self._transactions,
            is_owner=self._session.is_live,
            watching=self._watching,
            stand_ins=stand_ins,
        )
        self._turns = Turns(
            hot=self._hot,
            committer=self._committer,
            activities=self._activities,
            alarms=self._alarms,
            clock=clock,
            guard=self._watchdog,
            build=self._build,
            max_recoveries=settings.max_recoveries,
            surroundings=self,
            watching=self._watching,
        )
        self._activities.listen(self._turns.result, self._turns.body_ended)
        self._transactions.listen(CommitSlots(self._turns, self), self._activities.fail)
        self._claiming = Claiming(
            storage,
            self._session,
            self._hot,
            self._turns,
            self._committer,
            definitions=list(self._definitions),
            build=self._build,
            clock=clock,
            settings=settings,
        )
        self._deliveries = Deliveries(storage, self._hot, self._turns, settings.poll_interval)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_live(self) -> bool:
        """Whether the worker has a session that lives: what it has in memory is its own."""
        return self._session.is_live()

    @property
    def hot_count(self) -> int:
        """How many runs are in memory."""
        return len(self._hot)

    @property
    def commits(self) -> tuple[int, int]:
        """How many batches and entries have been committed."""
        return self._committer.batches, self._committer.entries

    # -- lifecycle --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Register a session and begin to claim."""
        self._session_opened(await self._session.open())
        self._watchdog.start()
        settings = self._settings
        self._spawn(lambda: self._session.keep(self._session_opened))
        self._spawn(
            lambda: housekeep(
                self._storage,
                self._clock,
                settings.session_ttl,
                settings.unserved_grace,
                is_on_duty=self._session.is_on_duty,
                on_freed=self._claiming.wanted.set,
            )
        )
        self._spawn(
            lambda: keep_pruning(
                self._storage,
                archives=settings.archive_retention,
                messages=settings.message_retention,
                instances=settings.instance_retention,
                is_on_duty=self._session.is_on_duty,
            )
        )
        self._spawn(self._claiming.claim_for_ever)
        self._spawn(lambda: self._deliveries.read_for_ever(lambda: self._session.id))
        self._spawn(lambda: self._deliveries.hand_out_for_ever(self.mail_expected, self._session.is_on_duty))
        self._spawn(self._tidy_for_ever)
        self._spawn(self._heartbeats.write_for_ever)
        if self._reports.is_counting:
            self._spawn(self._reports.count_for_ever)
        if self._reports.is_telling_ends:
            self._spawn(self._reports.tell_of_ends_for_ever)

    async def stop(self) -> None:
        """Stop claiming, let activities end within the grace time, commit, and free everything owned."""
        self._turns.is_draining = True
        await self._cancel_tasks()
        renewing = asyncio.create_task(self._session.keep(self._session_opened))
        beating = asyncio.create_task(_for_ever(self._heartbeats.write_for_ever))
        try:
            await self._activities.close(self._settings.grace)
            await self._transactions.close()
            await self._heartbeats.flush()
            await self._settle_turns()
        finally:
            renewing.cancel()
            beating.cancel()
            await asyncio.wait([renewing, beating])
            self._committer.session = None
            self._alarms.clear()
            self._turns.drop_all("shutdown")
            await asyncio.sleep(0)
            await self._committer.flush()
            self._watchdog.stop()
            self._watching.counted(0, None)
            try:
                await self._session.close()
            except StorageError as exc:
                _logger.warning("the session could not be closed, it will expire by itself: %s", exc)

    async def abandon(self) -> None:
        """Leave everything where it is, as a process that dies does: nothing more is written, nothing waited for."""
        self._turns.is_draining = True
        self._session.id = self._committer.session = None
        self._committer.abandon()
        await self._cancel_tasks()
        self._alarms.clear()
        self._turns.drop_all("shutdown")
        self._hot.clear()
        await self._activities.close(timedelta(0))
        self._watchdog.stop()

    @property
    def session(self) -> int | None:
        """The worker's session; None: it has none at present."""
        return self._session.id

    @property
    def is_busy(self) -> bool:
        """Whether a turn, a commit or a body is under way."""
        return self._turns.is_busy or self._activities.is_busy

    @property
    def next_due(self) -> int | None:
        """When something is next due by the clock, as far as the worker knows, in epoch microseconds; None: nothing."""
        known = (self._alarms.next(), self._claiming.next_due)
        return min((due for due in known if due is not None), default=None)

    def clock_moved(self) -> None:
        """Note that the clock was set: what was to come may be due now."""
        self._alarms.poll()
        self.changed()

    async def _settle_turns(self) -> None:
        """Wait until every result that was handed over is committed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.grace.total_seconds()
        while loop.time() < until and self._session.id is not None:
            await asyncio.sleep(0)
            if not self._turns.is_busy:
                return
            try:
                async with asyncio.timeout_at(until):
                    await self._committer.flush()
            except TimeoutError:
                return

    def _spawn(self, duty: Callable[[], Coroutine[object, object, None]]) -> None:
        self._tasks.append(asyncio.create_task(_for_ever(duty)))

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    # -- session ----------------------------------------------------------------------------------------

    def _session_opened(self, session: int) -> None:
        self._committer.session = session
        self._claiming.wanted.set()

    def _session_lost(self) -> None:
        _logger.warning("the worker's session is lost: its runs leave memory, and it registers anew")
        self._committer.session = None
        self._committer.discard()
        self._watching.session_lost(len(self._hot))
        self._turns.drop_all("session lost")
        self._hot.clear()

    # -- what this process starts itself ----------------------------------------------------------------

    def begin_start(self, execution_id: int, workflow: str, version: str) -> int | None:
        """Return the session that is to own a new instance from its creation on; None: it is to be claimed.

        `end_start` must follow where it is not None.
        """
        return self._claiming.begin_start(execution_id) if (workflow, version) in self._definitions else None

    def end_start(self, execution_id: int, created: Instance | None, *, is_lost: bool = False) -> None:
        """Take in an instance that was created as owned; or note that it may have been (``is_lost``)."""
        self._claiming.end_start(execution_id, created, is_lost=is_lost)

    def lost_sight(self) -> None:
        """Note that the session may own an instance which the worker does not know of."""
        self._claiming.lost_sight()

    def will_try(self, instance: Instance) -> bool:
        """Tell whether this worker is about to take a blocked instance: its build is not the one that blocked it."""
        return (
            self._session.id is not None
            and not self._turns.is_draining
            and (instance.workflow, instance.version) in self._definitions
            and instance.build != self._build
            and instance.wake_at is not None
            and instance.wake_at <= self._clock.now()
        )

    def ended(self, key: int) -> None:
        """Let go of an instance that a client has ended: nothing of it runs any more."""
        run = self._hot.get(key)
        if run is not None:
            self._turns.drop(run)

    def room_freed(self) -> None:
        """Note that a run has become idle or has left memory: claim, if there was no room."""
        self._claiming.room_freed()

    def holds(self, key: int) -> bool:
        """Tell whether an instance is in memory, so that its end will be told."""
        return self._hot.get(key) is not None

    # -- claims, mail, eviction -------------------------------------------------------------------------

    def changed(self) -> None:
        """Note that the database has changed: look for due instances, for mail, and at topics."""
        self._claiming.wanted.set()
        self._deliveries.mail_wanted.set()
        self._deliveries.topics_wanted.set()

    async def _tidy_for_ever(self) -> None:
        idle_timeout = self._settings.idle_timeout.total_seconds()
        while True:
            await asyncio.sleep(min(max(idle_timeout / 4, pacing.SHORTEST_PAUSE), 30.0))
            self._turns.evict_surplus(idle_timeout)
            self._activities.warn_of_long_bodies()

    # -- what the parts tell each other -----------------------------------------------------------------

    def _rang(self, key: int) -> None:
        self._turns.rang(key)

    def make_execution(self, claim: Claim) -> Execution:
        """Return a new execution for a claimed instance."""
        instance = claim.instance
        execution = Execution(
            self._definitions[instance.workflow, instance.version],
            instance.input,
            codec=self._codec,
            execution_id=instance.execution_id,
            instance_id=instance.id,
            run=instance.run,
            is_lenient=self._settings.is_lenient,
            payload_limit=self._settings.payload_limit,
            after_failure=self._activities.outcomes.after_failure_outside,
            deadline=instance.deadline,
            newest=self._newest_of,
            trace=self._watching.trace_of(instance.trace_context, instance.execution_id, instance.run),
            copied=copied_by(claim.history),
        )
        execution.is_begun_elsewhere = instance.next_seq == 0 and instance.begun_by not in {None, self._build}
        return execution

    def next_execution(self, run: HotRun, turn: Turn) -> Execution:
        """Return the execution of the run that recur opens."""
        closing = turn.closing
        if closing is None or closing.next_call is None:
            msg = f"instance {run.id!r} does not recur"
            raise RuntimeError(msg)
        return Execution(
            closing.next_call.definition,
            closing.note.payload or b"{}",
            codec=self._codec,
            execution_id=run.execution_id,
            instance_id=run.id,
            run=run.run + 1,
            is_lenient=self._settings.is_lenient,
            payload_limit=self._settings.payload_limit,
            after_failure=self._activities.outcomes.after_failure_outside,
            deadline=run.execution.deadline,
            newest=self._newest_of,
            trace=self._watching.trace_of(run.trace_context, run.execution_id, run.run + 1),
        )

    def _newest_of(self, workflow: Workflow[..., Any]) -> Workflow[..., Any]:
        served = self._newest.get(workflow.name, workflow)
        return max(served, workflow, key=lambda definition: version_key(definition.version))

    def run_ended(self, run: HotRun, status: Status, payload: bytes | None) -> None:
        """Note that an instance has ended or is blocked; it is in the database."""
        if run.run:
            self._listener.look_again(run.key)  # it may have ended as another workflow than it was started as
        else:
            self._listener.instance_changed(run.key, status, payload)

    def terminated(self, keys: Iterable[int]) -> None:
        """Let go of instances that were terminated by the end of another."""
        for key in keys:
            self.ended(key)
            self._listener.look_again(key)
            self._reports.ended(key)

    def run_freed(self, wake_at: int | None) -> None:
        """Note that an instance was freed and is due at an instant."""
        self._claiming.expect(wake_at)

    def topics_expected(self) -> None:
        """Note that topics may have something to hand out."""
        self._deliveries.topics_wanted.set()

    def mail_expected(self, keys: Iterable[int]) -> None:
        """Note that inbox rows for instances, here or elsewhere, are in the database."""
        for key in keys:
            if self._hot.get(key) is not None:
                self._deliveries.mail_wanted.set()
            else:
                self._claiming.wanted.set()
