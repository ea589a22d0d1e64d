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
from typing import TYPE_CHECKING, Any, cast

from romancy.core.calls import ActivityCall, ReceiveCall, WorkflowCall
from romancy.replay import patches
from romancy.replay.futures import OperationFuture
from romancy.replay.locations import coroutine_location
from romancy.replay.loop import STRIKES, SpinningError, TurnInterrupted
from romancy.replay.suspend import SuspendKind, SuspendSignal, clear_tracebacks, is_suspend_signal

if TYPE_CHECKING:
    from romancy.replay.execution import Execution
    from romancy.replay.guard import Guard
    from romancy.replay.loop import ReplayLoop

_fail_future: Any = cast("Any", asyncio.Future).set_exception
"""The class's own method: a subclass may refuse, as Task does."""
_PASSES = 3
_DRAIN_LIMIT = 10_000


def evict(execution: Execution, guard: Guard | None) -> list[str]:
    """Unwind a run by `SuspendSignal` and leave nothing of it alive.

    Returns:
        A warning for each task that swallowed the signal.
    """
    loop = execution.loop
    signals: list[SuspendSignal] = []
    loop.is_interrupted = False
    if loop.poison is None:
        loop.poison = _signal_of_run(execution)
    with loop:
        _close_unstarted(loop)
        loop.signalled = {task: None for task in loop.tasks if not task.done() and _waiter_of(task) is not None}
        for _ in range(_PASSES):
            live = [task for task in loop.tasks if not task.done()]
            if not live:
                break
            for task in live:
                if task.strikes <= STRIKES:
                    _fail_wait(_waiter_of(task), execution, signals)
            _drain(loop, guard, _DRAIN_LIMIT + 10 * len(live))
        end_hanging(loop, guard)
        warnings = [warning for task in loop.tasks if (warning := _forget_outcome(loop, task)) is not None]
        for signal in signals:
            clear_tracebacks(signal)
        loop.forget()
        execution.root = None
    return warnings


def _waiter_of(task: asyncio.Task[Any]) -> Any:
    waiter: Any = getattr(task, "_fut_waiter", None)
    return waiter


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
        if isinstance(call, WorkflowCall):
            return SuspendSignal(SuspendKind.CHILD, instance_id=execution.instance_id, activity_id=call.activity_id)
        if isinstance(call, ActivityCall):
            return SuspendSignal(SuspendKind.ACTIVITY, instance_id=execution.instance_id, activity_id=call.activity_id)
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
    _fail_future(waiter, signal)


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


def end_hanging(loop: ReplayLoop, guard: Guard | None = None) -> None:
    """Complete the tasks that swallowed every signal, past the Task's own refusal.

    Their coroutines are never finalised, not even at exit: they would run the author's code.
    """
    while live := [task for task in loop.tasks if not task.done()]:
        task = live[0]
        loop.signalled[task] = loop.signalled.get(task) or coroutine_location(task.get_coro())
        _immortalise(task.get_coro())
        _fail_future(task, SuspendSignal(SuspendKind.ACTIVITY))
        if loop.ready:
            if len(live) == 1:
                for handle in loop.ready:
                    _immortalise(handle)
            _drain(loop, guard, _DRAIN_LIMIT)


def _immortalise(held: object) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def _comes_of_signal(exc: BaseException | None) -> bool:
    """Tell whether an error is the signal, or took its place on the way out.

    Leaving ``async with condition`` while `Condition.wait` gets its lock back raises RuntimeError, for example.
    """
    while exc is not None:
        if is_suspend_signal(exc):
            return True
        exc = exc.__context__
    return False


def _forget_outcome(loop: ReplayLoop, task: asyncio.Task[Any]) -> str | None:
    """Drop the frames that a task's outcome keeps: finalisers of locals then run here, inside the poisoned loop.

    Returns:
        The warning, if the task has swallowed the signal.
    """
    place = loop.signalled.get(task)
    try:
        task.result()  # not .exception(): only result() drops the task's own copy of the traceback
        is_swallowed = True
    except BaseException as exc:  # noqa: BLE001 - the outcome of a suspended run is ignored
        is_swallowed = not _comes_of_signal(exc)
        clear_tracebacks(exc)
    if task not in loop.signalled or (place is None and not is_swallowed):
        return None
    place = place or coroutine_location(task.get_coro())
    return (
        f"task {task.get_name()!r} swallowed SuspendSignal ({place}): it is suspended all the same; let the signal "
        "pass, by catching Exception instead of BaseException, or by raising it again (is_suspend_signal)"
    )
