"""Telling people where a run that did not come back spends its time."""

from __future__ import annotations

import traceback
from types import CoroutineType
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from romancy.core.failures import Failure
    from romancy.replay.execution import Execution

_ENDLESS = frozenset({"romancy.replay.loop:SpinningError", "romancy.replay.loop:TurnInterrupted"})
_LONGEST = 4_000


def with_stacks(failure: Failure, execution: Execution) -> Failure:
    """Return the failure of a turn that was stopped, with the places where the run's tasks are.

    The traceback alone does not show them: what was stopped may have been the loop between two of their steps.
    Other failures are returned as they are.
    """
    if failure.type not in _ENDLESS:
        return failure
    stacks = "".join(
        f"Task {task.get_name()} is at:\n{stack}"
        for task in execution.loop.tasks
        if not task.done() and (stack := "".join(traceback.format_list(list(frames_of(task.get_coro())))))
    )
    return msgspec.structs.replace(
        failure,
        message=failure.message or "one turn did not end: the workflow computes or loops without waiting",
        traceback=failure.traceback + stacks[:_LONGEST],
    )


def frames_of(awaited: object) -> Iterator[traceback.FrameSummary]:
    """Walk from a task's coroutine to what it awaits, as far as that is Python code."""
    while isinstance(awaited, CoroutineType):
        frame: FrameType | None = awaited.cr_frame
        if frame is not None:
            yield from traceback.StackSummary.extract(iter([(frame, frame.f_lineno)]))
        awaited = awaited.cr_await
