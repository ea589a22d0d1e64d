"""The deterministic event loop that a run's coroutines execute on.

A FIFO ready queue, time that stands still within a turn, timers that are durable, and no I/O. It is entered from a
plain callback of the host loop (or from no loop at all) and left when nothing in the run can go on.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from asyncio import tasks as asyncio_tasks
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from romancy.core.clock import MICROSECONDS
from romancy.errors import NondeterminismError
from romancy.replay.futures import (
    OperationFuture,
    ReplayFuture,
    ReplayHandle,
    ReplayTask,
    ReplayTimerHandle,
)
from romancy.replay.ids import Scope
from romancy.replay.locations import author_location
from romancy.replay.patches import DELIVERY, install
from romancy.replay.refusals import refuse_io
from romancy.replay.suspend import SuspendSignal, is_suspend_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from romancy.core.calls import Call
    from romancy.replay.execution import Execution
    from romancy.replay.operations import Operations

T = TypeVar("T")

CALLBACK_LIMIT = 1_000_000
"""Callbacks in one drain, after which the run is taken to spin."""
DELIVERY_LIMIT = 100
"""Re-deliveries of anyio's cancellation in one drain; the rest wait for the next."""
STRIKES = 3
"""How often a task of a poisoned run is refused; then it hangs and is ended from outside."""

current_scope: contextvars.ContextVar[Scope] = contextvars.ContextVar("romancy_scope")

_current_task = asyncio.current_task
_get_running_loop = asyncio._get_running_loop
_set_running_loop = asyncio._set_running_loop
_new_future: Any = ReplayFuture.__new__
_new_task: Any = ReplayTask.__new__
_ENSURE_FUTURE = {
    getattr(asyncio_tasks, name).__code__
    for name in ("ensure_future", "_ensure_future")
    if hasattr(asyncio_tasks, name)
}
_WAIT_FOR = asyncio_tasks.wait_for.__code__


class SpinningError(Exception):
    """A drain does not end: the run spins without waiting for anything."""


class TurnInterrupted(KeyboardInterrupt):
    """The watchdog stops a drain. A KeyboardInterrupt, because asyncio's tasks let only that kind out."""


class ReplayLoop(asyncio.AbstractEventLoop):
    """Run the callbacks of one workflow run, in an order that is the same at every replay.

    Attributes:
        poison: Why the run is leaving memory, if it is.
        is_muted: Whether the run goes through its past: what is reported of it was reported then.
        is_interrupted: Whether the watchdog has struck.
        signalled: The tasks that a suspension has failed, and where they were seen to have swallowed the signal.
        tasks: The tasks in the order of their creation; some of them may be done.
        generators: The async generators in the order of their first iteration; some of them may be exhausted.
        reports: What was given to the exception handler, for the worker to log.
        stamp: The turn's time in epoch microseconds.
    """

    def __init__(self, execution: Execution, salt: int) -> None:
        self.romancy_run = execution
        self.poison: SuspendSignal | None = None
        self.is_interrupted = False
        self.is_muted = False
        self.signalled: dict[asyncio.Task[Any], str | None] = {}
        self.tasks: list[ReplayTask[Any]] = []
        self.generators: list[types.AsyncGeneratorType[Any, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.ready: deque[asyncio.Handle] = deque()
        self.stamp = 0
        self.callback_limit = CALLBACK_LIMIT
        self.root_scope = Scope("")
        self._time = 0.0
        self.last_hash = salt
        self._prune_at = 64
        self._deferred: list[asyncio.Handle] = []
        self._deliveries = 0

    # -- time -------------------------------------------------------------------------------------------

    def set_stamp(self, stamp: int) -> None:
        """Set the loop's time for one turn; epoch microseconds."""
        self.stamp = stamp
        self._time = stamp / MICROSECONDS

    def time(self) -> float:
        """Return the turn's stamp in epoch seconds."""
        return self._time

    # -- what asyncio asks of any loop ------------------------------------------------------------------

    def get_debug(self) -> bool:
        """Return False: debug mode would add callbacks of its own."""
        return False

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001 - asyncio's signature
        """Ignore the setting."""

    def is_running(self) -> bool:
        """Return whether the loop is draining."""
        return _get_running_loop() is self

    def is_closed(self) -> bool:
        """Return False: the loop holds nothing to close."""
        return False

    def get_task_factory(self) -> None:
        """Return None: the loop makes its tasks itself."""

    def get_exception_handler(self) -> None:
        """Return None: reports go to the worker's log."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep a report for the worker to log, unless the run is leaving memory, or it was made before."""
        if self.poison is None and not self.is_muted:
            self.reports.append(context)

    default_exception_handler = call_exception_handler

    def warn(self, message: str) -> None:
        """Keep a warning about the workflow's code for the worker to log, under the same conditions."""
        self.call_exception_handler({"message": message, "is_warning": True})

    # -- futures and tasks ------------------------------------------------------------------------------

    def strike(self) -> None:
        """Refuse something to a task of a poisoned run; after three times let it hang instead.

        Raises:
            SuspendSignal: The first three times per task, and always in a callback.
        """
        assert self.poison is not None  # noqa: S101 - callers check; this tells the type checker
        task: Any = _current_task(self)
        if task is not None:
            task.strikes += 1
            if task in self.signalled and self.signalled[task] is None and not is_suspend_signal(sys.exception()):
                self.signalled[task] = author_location()
            if task.strikes > STRIKES:
                return
        raise SuspendSignal(self.poison.kind, instance_id=self.poison.instance_id)

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future with a hash of the run."""
        if self.poison is not None:
            self.strike()
        future: ReplayFuture[Any] = _new_future(ReplayFuture)
        self.last_hash = future.ordinal_hash = self.last_hash + 1
        future.__init__(loop=self)  # type: ignore[misc] # the hash is needed before
        return future

    def create_operation(self, call: Call[object], operations: Operations) -> OperationFuture:
        """Make the future of a durable operation."""
        future: OperationFuture = OperationFuture.__new__(OperationFuture)
        self.last_hash = future.ordinal_hash = self.last_hash + 1
        future.call = call
        future.operations = operations
        future.__init__(loop=self)  # type: ignore[misc]
        return future

    def scope(self) -> Scope:
        """Return the scope of the running task; in a callback, that of the task that registered it."""
        task: Any = _current_task(self)
        return task.scope if task is not None else current_scope.get(self.root_scope)

    # asyncio makes tasks of generators no more.
    def create_task(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """Spawn a task with a scope of its own, named by its spawn path."""
        if self.poison is not None:
            coro.close()
            self.strike()
        parent = self.scope()
        scope = None
        transparent_of = None
        frame = sys._getframe().f_back
        if frame is not None and frame.f_code in _ENSURE_FUTURE:
            while frame is not None and frame.f_code in _ENSURE_FUTURE:
                frame = frame.f_back
            if frame is not None and frame.f_code is _WAIT_FOR:
                scope = parent
                transparent_of = asyncio.current_task(self)
            elif frame is not None and _is_as_completed(frame) and isinstance(coro, types.CoroutineType):
                coro.close()
                msg = (
                    "asyncio.as_completed makes tasks of coroutines in the order of their addresses, which no replay "
                    "can repeat: use romancy.as_completed, or create the tasks first"
                )
                raise NondeterminismError(msg)
        if scope is None:
            scope = parent.child()
        if context is None:
            context = contextvars.copy_context()
            if scope is not parent:
                context.run(current_scope.set, scope)
        return self.make_task(coro, scope, name or scope.path, context, transparent_of)

    def make_task(
        self,
        coro: Coroutine[Any, Any, T],
        scope: Scope,
        name: str,
        context: contextvars.Context,
        transparent_of: asyncio.Task[Any] | None = None,
    ) -> ReplayTask[T]:
        """Make a task in a given scope and keep it in the order of creation."""
        task: ReplayTask[T] = _new_task(ReplayTask)
        # Task.__init__ adds the task to a WeakSet, which asks for its hash.
        self.last_hash = task.ordinal_hash = self.last_hash + 1
        task.scope = scope
        task.strikes = 0
        task.transparent_of = transparent_of
        task.__init__(coro, loop=self, name=name, context=context)  # type: ignore[misc]
        self.tasks.append(task)
        if len(self.tasks) > self._prune_at:
            self.drop_done()
            self._prune_at = 2 * len(self.tasks) + 64
        return task

    def drop_done(self) -> None:
        """Let go of the tasks that are done; asyncio then reports failures that nobody has looked at."""
        self.tasks = [task for task in self.tasks if not task.done()]

    def spawn(self, coro: Coroutine[Any, Any, T], path: str, name: str) -> ReplayTask[T]:
        """Make a task in an empty context: nothing of a request that started the run leaks in."""
        context = contextvars.Context()
        scope = Scope(path) if path else self.root_scope
        context.run(current_scope.set, scope)
        return self.make_task(coro, scope, name, context)

    # -- callbacks and timers ---------------------------------------------------------------------------

    def call_soon(  # type: ignore[override] # the callback's arguments are only passed on
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Queue a callback."""
        handle = ReplayHandle(callback, args, self, context)
        if (
            (function := getattr(callback, "__func__", None)) is DELIVERY.function
            and function is not None
            and sys._getframe(1).f_code is function.__code__
        ):
            # anyio delivers a cancellation again at every tick: for ever, if nothing can move before a release.
            self._deliveries += 1
            if self._deliveries > DELIVERY_LIMIT:
                self._deferred.append(handle)
                return handle
        self.ready.append(handle)
        return handle

    def call_later(  # type: ignore[override] # the callback's arguments are only passed on
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Register a durable timer, ``delay`` seconds after the turn's stamp."""
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override] # the callback's arguments are only passed on
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Register a durable timer; one that is already due is a callback.

        The deadline in microseconds is ``when`` rounded, plus one if it then lies before ``when``: rounding alone
        could fire before the float time that the author compares with.
        """
        if self.poison is not None:
            self.strike()
        handle = ReplayTimerHandle(when, callback, args, self, context)
        handle.timer_id = self.scope().next_timer()
        if when <= self._time:
            handle.deadline = self.stamp
            self.ready.append(handle)
            return handle
        deadline = round(when * MICROSECONDS)
        if deadline / MICROSECONDS < when:
            deadline += 1
        handle.deadline = max(deadline, self.stamp + 1)
        handle._scheduled = True  # type: ignore[attr-defined] # asyncio's flag: cancel() then tells the loop
        run = self.romancy_run
        run.timers.add(handle)
        if run.observer is not None:
            run.observer.timer("started", handle)
        return handle

    def _timer_handle_cancelled(self, handle: ReplayTimerHandle) -> None:
        if handle._scheduled:  # type: ignore[attr-defined]
            self.romancy_run.timers.discard(handle)

    # -- async generators -------------------------------------------------------------------------------

    def _first_iteration(self, generator: Any) -> None:
        self.generators.append(generator)

    @staticmethod
    def _finalize(_: Any) -> None:
        """Do nothing: CPython then frees a suspended generator without running its ``finally``."""

    # -- the drain --------------------------------------------------------------------------------------

    def drain(self, limit: int | None = None) -> None:
        """Run the ready queue until nothing in it can go on. The loop must be entered.

        Raises:
            SpinningError: More callbacks ran than ``limit`` (or the loop's own).
            TurnInterrupted: The watchdog stopped it.
        """
        ready = self.ready
        pop = ready.popleft
        left = limit = limit or self.callback_limit
        self._deliveries = 0
        if self._deferred:
            ready.extend(self._deferred)
            self._deferred.clear()
        while ready:
            handle: Any = pop()
            if handle._cancelled:
                continue
            left -= 1
            if left < 0:
                msg = f"{limit:,} callbacks in one turn: the workflow spins without waiting for anything durable"
                raise SpinningError(msg)
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:  # noqa: BLE001 - as asyncio does: a callback's failure is reported
                self.call_exception_handler({"message": "callback failed", "exception": exc, "handle": handle})
            if self.is_interrupted:
                raise TurnInterrupted
        handle = None  # as asyncio does: a failure's traceback holds this frame, and would keep the task that failed
        if len(self.generators) > 32:  # noqa: PLR2004 - often enough to stay small, seldom enough to be free
            self.generators = [g for g in self.generators if g.ag_frame is not None]

    def forget(self) -> None:
        """Drop every callback, task and generator."""
        self.ready.clear()
        self.tasks.clear()
        self.generators.clear()
        self.signalled.clear()
        self._deferred.clear()

    def __enter__(self) -> None:
        self._outer = (_get_running_loop(), sys.get_asyncgen_hooks())
        _set_running_loop(self)
        sys.set_asyncgen_hooks(self._first_iteration, self._finalize)

    def __exit__(self, *_: object) -> None:
        loop, hooks = self._outer
        _set_running_loop(loop)
        sys.set_asyncgen_hooks(*hooks)


def _is_as_completed(frame: types.FrameType) -> bool:
    """Tell whether a frame is asyncio's as_completed: a set comprehension in 3.11, a function or class later."""
    code = frame.f_code
    return frame.f_globals is asyncio_tasks.__dict__ and (
        code.co_name in {"<setcomp>", "as_completed"} or "_AsCompleted" in code.co_qualname
    )


refuse_io(ReplayLoop)
install()
