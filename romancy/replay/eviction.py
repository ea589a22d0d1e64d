"""How a run leaves memory without running what its author wrote for other occasions.

Every task is failed in one tick at what it waits on, whoever made that future; never by `Task.cancel`, which would
run the author's cancellation handlers. What swallows the signal is refused everything three times per task and then
hangs; what still hangs is ended from outside. Afterwards nothing of the run is alive.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import types
from typing import TYPE_CHECKING, Any

from romancy.core.calls import ActivityCall, ReceiveCall
from romancy.replay import patches
from romancy.replay.futures import OperationFuture
from romancy.replay.loop import STRIKES, SpinningError, TurnInterrupted
from romancy.replay.suspend import SuspendKind, SuspendSignal, clear_tracebacks

if TYPE_CHECKING:
    from romancy.replay.execution import Execution
    from romancy.replay.guard import Guard
    from romancy.replay.loop import ReplayLoop

_PASSES = 3
_DRAIN_LIMIT = 10_000


def evict(execution: Execution, guard: Guard | None) -> list[str]:
    """Unwind a run by `SuspendSignal` and leave nothing of it alive.

    Returns:
        The names of the tasks that swallowed the signal until they had to be ended from outside.
    """
    loop = execution.loop
    signals: list[SuspendSignal] = []
    loop.is_interrupted = False
    if loop.poison is None:
        loop.poison = _signal_of_run(execution)
    with loop:
        _close_unstarted(loop)
        for _ in range(_PASSES):
            live = [task for task in loop.tasks if not task.done()]
            if not live:
                break
            for task in live:
                if task.strikes <= STRIKES:
                    _fail_wait(task._fut_waiter, execution, signals)  # type: ignore[attr-defined]
            _drain(loop, guard, _DRAIN_LIMIT + 10 * len(live))
        stuck = _end_hanging(loop, guard)
        for task in loop.tasks:
            _forget_outcome(task)
        for signal in signals:
            clear_tracebacks(signal)
        loop.ready.clear()
        loop.tasks.clear()
        loop.generators.clear()
        execution.root = None
    return stuck


def _signal_of_run(execution: Execution) -> SuspendSignal:
    """Return the signal for tasks that wait on a future of their own: it names what the run as a whole waits for."""
    timer = execution.timers.earliest()
    if timer is not None:
        return SuspendSignal(
            SuspendKind.TIMER,
            instance_id=execution.instance_id,
            activity_id=timer.timer_id,
            expires_at=execution.instant(timer.deadline),
        )
    return SuspendSignal(SuspendKind.ACTIVITY, instance_id=execution.instance_id)


def _signal_for(future: asyncio.Future[Any], execution: Execution) -> SuspendSignal:
    poison = execution.loop.poison
    if isinstance(future, OperationFuture):
        call = future.call
        if isinstance(call, ReceiveCall):
            return SuspendSignal(
                SuspendKind.CHANNEL_MESSAGE,
                instance_id=execution.instance_id,
                activity_id=call.activity_id,
                channel=call.name,
                timeout=call.timeout,
            )
        if isinstance(call, ActivityCall):
            return SuspendSignal(
                SuspendKind.ACTIVITY, instance_id=execution.instance_id, activity_id=call.activity_id
            )
    if poison is None:
        return _signal_of_run(execution)
    return SuspendSignal(
        poison.kind,
        instance_id=poison.instance_id,
        activity_id=poison.activity_id,
        expires_at=poison.expires_at,
        new_input=poison.new_input,
    )


def _close_unstarted(loop: ReplayLoop) -> None:
    """Close coroutines that have not begun (an interrupted drain leaves some): none may begin now."""
    for task in loop.tasks:
        coro = task.get_coro()
        if (
            not task.done()
            and isinstance(coro, types.CoroutineType)
            and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED
        ):
            coro.close()


def _fail_wait(waiter: Any, execution: Execution, signals: list[SuspendSignal]) -> None:
    """Fail what a task waits on, through gather's children; a task among them is failed at its own wait."""
    if waiter is None or waiter.done() or isinstance(waiter, asyncio.Task):
        return
    if isinstance(waiter, patches.GatheringFuture):
        for child in waiter._children:
            _fail_wait(child, execution, signals)
        return
    signal = _signal_for(waiter, execution)
    signals.append(signal)
    # asyncio's own method: a subclass may refuse, and set_exception of the class does not.
    asyncio.Future.set_exception(waiter, signal)


def _drain(loop: ReplayLoop, guard: Guard | None, limit: int) -> None:
    loop.is_interrupted = False
    if guard is not None:
        guard.arm(loop)
    try:
        loop.drain(limit)
    except (SpinningError, TurnInterrupted, SystemExit):
        pass  # whatever the code does now is ignored: what still runs is ended from outside
    finally:
        while guard is not None:
            try:
                guard.disarm(loop)
                break
            except TurnInterrupted:
                continue
        loop.is_interrupted = False


def _end_hanging(loop: ReplayLoop, guard: Guard | None) -> list[str]:
    """Complete the tasks that swallowed every signal, past the Task's own refusal.

    Their coroutines are never finalised, not even at exit: they would run the author's code.
    """
    stuck: list[str] = []
    while True:
        live = [task for task in loop.tasks if not task.done()]
        if not live:
            return stuck
        task = live[0]
        stuck.append(task.get_name())
        _immortalise(task.get_coro())
        asyncio.Future.set_exception(task, SuspendSignal(SuspendKind.ACTIVITY))
        if loop.ready:
            if len(live) == 1:
                for handle in loop.ready:
                    _immortalise(handle)
            _drain(loop, guard, _DRAIN_LIMIT)


def _immortalise(held: object) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def _forget_outcome(task: asyncio.Task[Any]) -> None:
    """Drop the frames that a task's outcome keeps: finalisers of locals then run here, inside the poisoned loop."""
    try:
        task.result()  # not .exception(): only result() drops the task's own copy of the traceback
    except BaseException as exc:
        clear_tracebacks(exc)
