"""One attempt at an activity in this process."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from romancy.activities.context import Pulse
from romancy.worker.stacks import frames_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from romancy.core.commands import RunActivity
    from romancy.worker.hot import HotRun
    from romancy.worker.transactions import ActivityTransaction

_NO_TIMERS: Mapping[str, asyncio.TimerHandle] = {}


class Body(Pulse):
    """One attempt: its task once it has begun, and whether its outcome still counts.

    What most attempts never change are attributes of the class: an attempt costs no more than it uses.

    Attributes:
        run: Whose activity it is.
        run_number: Which run of the instance that was: ``run.run`` may go on.
        command: What is to be done.
        task: Does it; None: it waits for room.
        is_wanted: Its outcome still counts.
        is_late: It was timed out before it ended.
        is_dirty: It has details that are not in the database, and the worker knows.
        deadline: When it is timed out, in epoch microseconds; 0: never.
        timers: What bounds it, by the kind of the bound.
        seen_at: When it was first seen to run without a bound, by the monotonic clock; infinite: that was logged.
        transaction: Its own, if the activity is transactional and the body has begun.
    """

    task: asyncio.Task[None] | None = None
    is_wanted = True
    is_late = False
    is_dirty = False
    deadline = 0
    timers = _NO_TIMERS
    seen_at = 0.0
    transaction: ActivityTransaction | None = None

    def __init__(self, run: HotRun, command: RunActivity) -> None:
        self.run = run
        self.run_number = run.run
        self.command = command

    def cancel_timers(self) -> None:
        """Let go of what bounds it."""
        for timer in self.timers.values():
            timer.cancel()
        self.timers = _NO_TIMERS

    def stack(self) -> str:
        """Return where it is, as text; empty if that is not known: a thread's is not."""
        if self.task is None or not self.command.call.definition.is_async:
            return ""
        frames = list(frames_of(self.task.get_coro()))[1:]  # the first is the worker's own
        return "".join(["The attempt was at:\n", *traceback.format_list(frames)]) if frames else ""

    def __repr__(self) -> str:
        return f"attempt {self.command.attempt} at {self.command.activity_id} of instance {self.run.id!r}"
