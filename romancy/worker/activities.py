"""Running the bodies of activities."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

from romancy.activities.context import ActivityContext, current_activity
from romancy.activities.transaction import current_scope
from romancy.core.clock import MICROSECONDS
from romancy.core.codec import check_size
from romancy.core.events import ActivityCompleted
from romancy.worker.bodies import Body
from romancy.worker.outcomes import Outcomes, hand_over_of
from romancy.worker.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from romancy.activities.context import Heart
    from romancy.core.clock import Clock
    from romancy.core.codec import Codec
    from romancy.core.commands import RunActivity
    from romancy.core.events import Release
    from romancy.core.retry import RetryPolicy
    from romancy.worker.hot import HotRun
    from romancy.worker.transactions import Transactions
    from romancy.worker.watching import Watching

_logger = logging.getLogger("romancy")
_THREAD_LIMIT = 64
_THREAD_PATIENCE = 0.2
_CANCEL_PATIENCE = 5.0
_CLEANUP_PATIENCE = 1.0
"""Seconds for which the next attempt waits for a timed-out one to clean up."""
_LONG = 300
"""Seconds after which a body without a time limit is logged."""


class ActivityRunner:
    """Run activity bodies as tasks of the host's event loop; ``def`` bodies in threads.

    Every body that is not cancelled ends in exactly one release: completed, failed, failed with another attempt to
    come, or handed over. A body's result is dropped if its run has left this process meanwhile. A body that is out of
    time ends in that moment, whether its task does or not.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        codec: Codec,
        retry: RetryPolicy,
        limit: int,
        payload_limit: int,
        heart: Heart,
        transactions: Transactions,
        is_owner: Callable[[], bool],
        watching: Watching,
        stand_ins: Mapping[str, Callable[..., Awaitable[object]]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            clock: Judges time-outs and back-offs.
            codec: Encodes results.
            retry: The policy of activities that have none of their own.
            limit: How many bodies run at once; the others wait in the order of their start.
            payload_limit: Upper bound of an encoded result in bytes.
            heart: Keeps what bodies tell by their heartbeats.
            transactions: Those of transactional activities.
            is_owner: Tells whether what is in memory is certainly this worker's still; otherwise no body begins.
            watching: Is told of bodies that begin.
            stand_ins: Coroutine functions to run instead of activities' own functions, by the activities' names; for
                tests.
        """
        self.outcomes = Outcomes(clock, retry)
        self._clock = clock
        self._codec = codec
        self._heart = heart
        self._limit = limit
        self._payload_limit = payload_limit
        self._transactions = transactions
        self._is_owner = is_owner
        self._watching = watching
        self._on_result: Callable[[HotRun, Release], None]
        self._on_end: Callable[[HotRun], None]
        self._stand_ins: Mapping[str, Callable[..., Awaitable[object]]] = {} if stand_ins is None else stand_ins
        self._is_closing = False
        self._running: set[Body] = set()
        self._waiting: deque[Body] = deque()
        self._late: dict[tuple[int, int, str], Body] = {}
        self._threads = Threads(min(limit, _THREAD_LIMIT))
        self._thread_slots = asyncio.Semaphore(min(limit, _THREAD_LIMIT))

    def listen(self, on_result: Callable[[HotRun, Release], None], on_end: Callable[[HotRun], None]) -> None:
        """Say who is told of bodies that end; to be called before any is started.

        Args:
            on_result: Takes what a body ended in.
            on_end: Is told of a body that ended without an outcome that counts.
        """
        self._on_result = on_result
        self._on_end = on_end

    @property
    def is_busy(self) -> bool:
        """Whether a body runs, or waits for room."""
        return bool(self._running or self._waiting)

    def start(self, run: HotRun, command: RunActivity) -> None:
        """Run a body now, or when there is room."""
        activity_id = command.activity_id
        if activity_id in run.bodies:
            self.cancel(run, activity_id)  # its outcome does not count any more
        body = Body(run, command)
        if command.details is not None:
            body.details = command.details
        if run.beats and (beat := run.beats.get(activity_id)) is not None and beat.attempt == command.attempt:
            body.details = beat.details  # this attempt's own, of a process that has died
        run.bodies[activity_id] = body
        if command.call.definition.settings.total_timeout is not None and not self._bound_in_all(body):
            return
        if len(self._running) < self._limit:
            self._begin(body)
        else:
            self._waiting.append(body)

    def cancel(self, run: HotRun, activity_id: str) -> None:
        """Tell a body to stop; nothing is heard of it any more."""
        body = run.bodies.pop(activity_id, None)
        if body is not None:
            body.is_wanted = False
            self._stop(body)

    def let_go(self, run: HotRun, activity_id: str) -> None:
        """Let a body come to its end by itself; nothing is heard of it any more."""
        body = run.bodies.pop(activity_id, None)
        if body is not None:
            body.is_wanted = False
            body.is_stopped = True
            if body.transaction is not None:
                body.transaction.close("somebody outside has finished the activity")

    def _stop(self, body: Body) -> None:
        body.is_stopped = True
        body.cancel_timers()
        if body.transaction is not None:
            body.transaction.close("it was told to stop")
        if body.task is not None and body.task.cancel():
            # A task that is cancelled before its first step does not get to its ``finally``.
            body.task.add_done_callback(lambda _: self._leave(body))

    def _leave(self, body: Body) -> None:
        body.is_stopped = True
        body.task = None  # whose context leads back to the body: garbage for the collector otherwise
        if body.timers:
            body.cancel_timers()
        if body.transaction is not None:
            body.transaction.close()
        if body.is_late and self._late.get(place := _place_of(body)) is body:
            del self._late[place]
        self._running.discard(body)
        if self._waiting:
            self._begin_waiting()

    def cancel_all(self, run: HotRun) -> None:
        """Tell all bodies of a run to stop."""
        for activity_id in list(run.bodies):
            self.cancel(run, activity_id)

    def warn_of_long_bodies(self) -> None:
        """Log, once for each, the bodies that go on and on without a time limit; to be called now and then."""
        now = time.monotonic()
        for body in self._running:
            if body.command.call.definition.is_bounded:
                continue
            if not body.seen_at:
                body.seen_at = now
            elif now - body.seen_at >= _LONG:
                body.seen_at = math.inf
                _logger.warning(
                    "%r has run for %d minutes without a time limit: set timeout= or heartbeat_timeout= if it may hang",
                    body,
                    _LONG // 60,
                )

    async def close(self, grace: timedelta) -> None:
        """Let running bodies end within a grace time, then cancel the rest and wait for them."""
        self._waiting.clear()
        if self._running:
            await asyncio.wait(self._tasks(), timeout=grace.total_seconds())
        self._is_closing = True
        for body in list(self._running):
            self._stop(body)
        if self._running:
            await asyncio.wait(self._tasks(), timeout=_CANCEL_PATIENCE)
        for body in self._running:
            name = body.task.get_name() if body.task is not None else "?"
            _logger.warning("activity %s does not end although it is cancelled: it is left behind", name)
        # Ending idle threads takes no time; one that is busy after the grace time is left behind.
        for name in self._threads.close(_THREAD_PATIENCE):
            _logger.warning("thread %s still runs an activity that does not end: it is left behind", name)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [body.task for body in self._running if body.task is not None]

    def _begin(self, body: Body) -> None:
        self._running.add(body)
        # A Task made directly costs half of loop.create_task, which asks for a task factory and makes up a name.
        body.task = asyncio.Task(
            self._attempt(body),
            loop=asyncio.get_running_loop(),
            name=body.command.activity_id,
            # Empty: nothing of the request that happened to set this off leaks in.
            context=contextvars.Context(),
        )

    def _begin_waiting(self) -> None:
        """Begin the bodies that wait, as far as there is room."""
        while self._waiting and len(self._running) < self._limit:
            waiting = self._waiting.popleft()
            if waiting.is_wanted:
                self._begin(waiting)

    async def _attempt(self, body: Body) -> None:
        release: Release
        run, command = body.run, body.command
        definition = command.call.definition
        subject = definition.arguments_subject
        try:
            args, kwargs = definition.signature.decode_arguments(self._codec, command.call.arguments, subject)
            if self._late:
                await self._wait_for_cleanup(body)
            stand_in = self._stand_ins.get(definition.name) if self._stand_ins else None
            if stand_in is not None or definition.is_async:
                self._enter(body)
                value = await cast("Awaitable[object]", (stand_in or definition.fn)(*args, **kwargs))
            else:
                async with self._thread_slots:  # no attempt's time passes while it waits for a thread
                    self._enter(body)
                    value = await self._threads.run(partial(definition.fn, *args, **kwargs))
            release = self._release_of(body, value)
            if body.transaction is not None and body.transaction.commit(release):
                return  # its outcome counts once it is committed; until then the body stays among its run's
        except asyncio.CancelledError as exc:
            if self._was_stopped(body):
                raise
            release = self._failed(body, _cancelled_by_others(exc))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever a body raises is its failure
            release = self._failed(body, exc)
        finally:
            self._leave(body)
        if body.is_wanted:
            body.is_wanted = False
            del run.bodies[command.activity_id]
            self._on_result(run, release)
            return
        if body.is_late:
            _logger.warning("%r has ended after it was timed out: its outcome is dropped", body)
        self._on_end(run)

    def _release_of(self, body: Body, value: object) -> Release:
        """Return what a body that has returned ends in."""
        if body.has_token:
            return hand_over_of(body)
        definition = body.command.call.definition
        payload, _ = definition.signature.encode_result(self._codec, value, definition.result_subject)
        if len(payload) > self._payload_limit:
            check_size(payload, self._payload_limit, definition.result_subject)
        return ActivityCompleted(body.command.activity_id, payload)

    def fail(self, body: Body, exc: BaseException) -> None:
        """Have an attempt count as failed whose body has ended well, if its outcome still counts."""
        if body.is_wanted:
            body.is_wanted = False
            del body.run.bodies[body.command.activity_id]
            self._on_result(body.run, self._failed(body, exc))

    def _failed(self, body: Body, exc: BaseException) -> Release:
        return self.outcomes.after_failure(body.command, exc, details=body.details)

    def _was_stopped(self, body: Body) -> bool:
        """Tell whether it was the worker that cancelled a body; then nothing is heard of it any more."""
        if body.is_wanted and not self._is_closing:
            return False
        if body.is_wanted:
            del body.run.bodies[body.command.activity_id]
        self._on_end(body.run)
        return True

    # -- time -------------------------------------------------------------------------------------------

    def _enter(self, body: Body) -> None:
        """Begin an attempt's time, and let its body know of itself.

        Raises:
            asyncio.CancelledError: The process was stopped for so long that another may have done this already.
        """
        if not self._is_owner():
            raise asyncio.CancelledError
        run, command = body.run, body.command
        deadline = None
        if command.call.definition.is_bounded:
            self._bound(body)
            if body.deadline:
                deadline = datetime.fromtimestamp(body.deadline / MICROSECONDS, UTC)
        trace = run.execution.trace
        current_activity.set(
            ActivityContext(
                run.id, run.execution_id, body.run_number, command, deadline, body.details, body, self._heart, trace
            )
        )
        if command.call.definition.settings.transactional:
            body.transaction = self._transactions.prepare(body)
            current_scope.set(body.transaction)
        if run.ref is not None:
            self._watching.body_begins(body)

    def _bound(self, body: Body) -> None:
        """Set the timers of one attempt."""
        settings = body.command.call.definition.settings
        loop = asyncio.get_running_loop()
        timers = dict(body.timers)
        if settings.timeout is not None:
            seconds = settings.timeout.total_seconds()
            timers["timeout"] = loop.call_later(seconds, self._expire, body, "timeout", seconds)
            deadline = self._clock.now() + round(seconds * MICROSECONDS)
            body.deadline = min(body.deadline or deadline, deadline)
        if settings.heartbeat_timeout is not None:
            seconds = settings.heartbeat_timeout.total_seconds()
            body.beaten_at = time.monotonic()
            timers["heartbeat_timeout"] = loop.call_later(seconds, self._listen, body, seconds)
        body.timers = timers

    def _bound_in_all(self, body: Body) -> bool:
        """Set the timer of all attempts together, which counts while there is no room too; False: it is over."""
        command = body.command
        total = command.call.definition.settings.total_timeout or timedelta(0)
        seconds = total.total_seconds()
        body.deadline = command.scheduled_at + round(seconds * MICROSECONDS)
        left = min((body.deadline - self._clock.now()) / MICROSECONDS, seconds)
        if left <= 0:
            self._expire(body, "total_timeout", seconds)
            return False
        timer = asyncio.get_running_loop().call_later(left, self._expire, body, "total_timeout", seconds)
        body.timers = {"total_timeout": timer}
        return True

    def _listen(self, body: Body, seconds: float) -> None:
        """Time an attempt out if it has not beaten for so long."""
        left = body.beaten_at + seconds - time.monotonic()
        if left <= 0:
            self._expire(body, "heartbeat_timeout", seconds)
        else:
            timer = asyncio.get_running_loop().call_later(left, self._listen, body, seconds)
            body.timers = {**body.timers, "heartbeat_timeout": timer}

    def _expire(self, body: Body, kind: str, seconds: float) -> None:
        """Time an attempt out: its run goes on now, whatever the body does about it."""
        task = body.task
        if task is not None and task.done():
            return
        if not body.is_wanted or self._is_closing:
            self._stop(body)
            return
        release = self.outcomes.after_time_out(body, kind, seconds)
        body.is_wanted = False
        self._stop(body)
        del body.run.bodies[body.command.activity_id]
        if task is not None:
            body.is_late = True
            self._late[_place_of(body)] = body
            asyncio.get_running_loop().call_later(_CANCEL_PATIENCE, _warn_if_it_goes_on, body)
        self._on_result(body.run, release)

    async def _wait_for_cleanup(self, body: Body) -> None:
        """Give an earlier attempt at the same activity a moment to end: the two should not overlap."""
        earlier = self._late.get(_place_of(body))
        if earlier is not None and earlier.task is not None:
            await asyncio.wait([earlier.task], timeout=_CLEANUP_PATIENCE)


def _place_of(body: Body) -> tuple[int, int, str]:
    return body.run.key, body.run_number, body.command.activity_id


def _warn_if_it_goes_on(body: Body) -> None:
    if body.task is not None and not body.task.done():
        _logger.warning("%r does not end although it was timed out: its run has gone on without it", body)


def _cancelled_by_others(exc: asyncio.CancelledError) -> RuntimeError:
    """Return the failure of a body whose task was cancelled, but not by the worker: it may be tried again."""
    failure = RuntimeError("the activity was cancelled from within its process, not by its workflow")
    failure.__cause__ = exc
    return failure
