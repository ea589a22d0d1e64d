"""Running the bodies of activities, and deciding what follows when one fails."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections import deque
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

import msgspec

from romancy.activities.context import ActivityContext, current_activity
from romancy.core.clock import MICROSECONDS
from romancy.core.codec import check_size
from romancy.core.events import ActivityCompleted, ActivityFailed, ActivityRetried, Attempt
from romancy.core.failures import encode_failure, failure_of
from romancy.core.retry import next_delay
from romancy.errors import ActivityTimedOutError
from romancy.worker.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from romancy.core.clock import Clock
    from romancy.core.codec import Codec
    from romancy.core.commands import RunActivity
    from romancy.core.definitions import Activity
    from romancy.core.events import Release
    from romancy.core.retry import RetryPolicy
    from romancy.worker.hot import HotRun

_logger = logging.getLogger("romancy")
_THREAD_LIMIT = 64
_THREAD_PATIENCE = 0.2
_CANCEL_PATIENCE = 5.0
_encode = msgspec.json.Encoder().encode


class Body:
    """One attempt at an activity: its task once it has begun, and whether its outcome still counts."""

    __slots__ = ("is_wanted", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_wanted = True


class ActivityRunner:
    """Run activity bodies as tasks of the host's event loop; ``def`` bodies in threads.

    Every body that is not cancelled ends in exactly one release: completed, failed, or failed with another attempt
    to come. A body's result is dropped if its run has left this process meanwhile.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        codec: Codec,
        retry: RetryPolicy,
        limit: int,
        payload_limit: int,
    ) -> None:
        """Prepare.

        Args:
            clock: Judges time-outs and back-offs.
            codec: Encodes results.
            retry: The policy of activities that have none of their own.
            limit: How many bodies run at once; the others wait in the order of their start.
            payload_limit: Upper bound of an encoded result in bytes.
        """
        self._clock = clock
        self._codec = codec
        self._retry = retry
        self._limit = limit
        self._payload_limit = payload_limit
        self._on_result: Callable[[HotRun, Release], None]
        self._on_end: Callable[[HotRun], None]
        self._is_closing = False
        self._running: set[Body] = set()
        self._waiting: deque[tuple[HotRun, RunActivity, Body]] = deque()
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

    def start(self, run: HotRun, command: RunActivity) -> None:
        """Run a body now, or when there is room."""
        if command.activity_id in run.bodies:
            self.cancel(run, command.activity_id)  # its outcome does not count any more
        body = Body()
        run.bodies[command.activity_id] = body
        if len(self._running) < self._limit:
            self._begin(run, command, body)
        else:
            self._waiting.append((run, command, body))

    def cancel(self, run: HotRun, activity_id: str) -> None:
        """Tell a body to stop; nothing is heard of it any more."""
        body = run.bodies.pop(activity_id, None)
        if body is not None:
            body.is_wanted = False
            self._stop(body)

    def _stop(self, body: Body) -> None:
        if body.task is not None and body.task.cancel():
            # A task that is cancelled before its first step does not get to its ``finally``.
            body.task.add_done_callback(lambda _: self._leave(body))

    def _leave(self, body: Body) -> None:
        self._running.discard(body)
        if self._waiting:
            self._begin_waiting()

    def cancel_all(self, run: HotRun) -> None:
        """Tell all bodies of a run to stop."""
        for activity_id in list(run.bodies):
            self.cancel(run, activity_id)

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

    def _begin(self, run: HotRun, command: RunActivity, body: Body) -> None:
        self._running.add(body)
        # A Task made directly costs half of loop.create_task, which asks for a task factory and makes up a name.
        body.task = asyncio.Task(
            self._attempt(run, command, body),
            loop=asyncio.get_running_loop(),
            name=command.activity_id,
            # Empty: nothing of the request that happened to set this off leaks in.
            context=contextvars.Context(),
        )

    def _begin_waiting(self) -> None:
        """Begin the bodies that wait, as far as there is room."""
        while self._waiting and len(self._running) < self._limit:
            run, command, waiting = self._waiting.popleft()
            if waiting.is_wanted:
                self._begin(run, command, waiting)

    async def _attempt(self, run: HotRun, command: RunActivity, body: Body) -> None:
        release: Release
        definition = command.call.definition
        settings = definition.settings
        signature = definition.signature
        try:
            args, kwargs = signature.decode_arguments(self._codec, command.call.arguments, definition.arguments_subject)
            if definition.is_async and settings.timeout is None and settings.total_timeout is None:
                current_activity.set(ActivityContext(run.id, run.execution_id, run.run, command, None))
                value = await self._call(definition, args, kwargs)
            else:
                value = await self._call_in_bounds(run, command, args, kwargs)
            payload, _ = signature.encode_result(self._codec, value, definition.result_subject)
            if len(payload) > self._payload_limit:
                check_size(payload, self._payload_limit, definition.result_subject)
        except asyncio.CancelledError as exc:
            if self._was_stopped(run, command, body):
                raise
            release = self._failed(command, _cancelled_by_others(exc))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever a body raises is its failure
            release = self._failed(command, exc)
        else:
            release = ActivityCompleted(command.activity_id, payload)
        finally:
            self._leave(body)
        if body.is_wanted:
            del run.bodies[command.activity_id]
            self._on_result(run, release)
        else:
            self._on_end(run)

    def _was_stopped(self, run: HotRun, command: RunActivity, body: Body) -> bool:
        """Tell whether it was the worker that cancelled a body; then nothing is heard of it any more."""
        if body.is_wanted and not self._is_closing:
            return False
        if body.is_wanted:
            del run.bodies[command.activity_id]
        self._on_end(run)
        return True

    async def _call_in_bounds(
        self, run: HotRun, command: RunActivity, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        if command.call.definition.is_async:
            return await self._call_in_time(run, command, args, kwargs)
        async with self._thread_slots:  # no attempt's time passes while it waits for a thread
            return await self._call_in_time(run, command, args, kwargs)

    def _call(
        self, definition: Activity[..., object], args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Awaitable[object]:
        if definition.is_async:
            return cast("Awaitable[object]", definition.fn(*args, **kwargs))
        return self._threads.run(partial(definition.fn, *args, **kwargs))

    async def _call_in_time(
        self, run: HotRun, command: RunActivity, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        definition = command.call.definition
        now = self._clock.now()
        seconds, kind = self._time_left(command, now)
        deadline = None if seconds is None else datetime.fromtimestamp(now / MICROSECONDS + seconds, UTC)
        current_activity.set(ActivityContext(run.id, run.execution_id, run.run, command, deadline))
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._call(definition, args, kwargs)
        except TimeoutError as exc:
            if not limit.expired():
                raise
            message = f"activity {command.activity_id} of instance {run.id!r} ran out of its {kind} ({seconds} s)"
            raise ActivityTimedOutError(message, attempts=command.attempt, kind=kind) from exc

    @staticmethod
    def _time_left(command: RunActivity, now: int) -> tuple[float | None, str]:
        """Return how many seconds this attempt may take (None: any time), and by which limit."""
        settings = command.call.definition.settings
        found: list[tuple[float, str]] = []
        if settings.timeout is not None:
            found.append((settings.timeout.total_seconds(), "timeout"))
        if settings.total_timeout is not None:
            left = settings.total_timeout.total_seconds() - (now - command.scheduled_at) / MICROSECONDS
            found.append((max(left, 0.0), "total_timeout"))
        return min(found, default=(None, ""))

    def _failed(self, command: RunActivity, exc: BaseException) -> Release:
        """Return what follows a failed attempt: another one, or the activity's failure."""
        settings = command.call.definition.settings
        now = self._clock.now()
        elapsed = timedelta(microseconds=max(now - command.scheduled_at, 0))
        failure = failure_of(exc, attempts=command.attempt, activity_id=command.activity_id)
        delay = None
        if not (isinstance(exc, SystemExit) or failure.kind == "total_timeout"):
            policy = settings.retry or self._retry
            delay = next_delay(
                policy,
                cast("Exception", exc),
                attempt=command.attempt,
                elapsed=elapsed,
                random=random.random(),
            )
        if delay is not None and settings.total_timeout is not None and elapsed + delay >= settings.total_timeout:
            delay = None
        if delay is None:
            return ActivityFailed(command.activity_id, encode_failure(failure))
        retry_at = now + delay // timedelta(microseconds=1)
        attempt = Attempt(command.attempt, retry_at, msgspec.Raw(encode_failure(failure)))
        return ActivityRetried(command.activity_id, _encode(attempt))


def _cancelled_by_others(exc: asyncio.CancelledError) -> RuntimeError:
    """Return the failure of a body whose task was cancelled, but not by the worker: it may be tried again."""
    failure = RuntimeError("the activity was cancelled from within its process, not by its workflow")
    failure.__cause__ = exc
    return failure
