"""Which execution the running workflow code belongs to."""

from __future__ import annotations

import asyncio

from romancy.core.calls import current_run
from romancy.errors import OutsideWorkflowError
from romancy.replay.execution import Execution


def current_execution(what: str) -> Execution:
    """Return the execution of the running workflow.

    Args:
        what: The function that the author called, for the message.

    Raises:
        OutsideWorkflowError: No workflow runs here.
    """
    run = current_run()
    if not isinstance(run, Execution):
        msg = f"{what} was called where no workflow runs: call it in the code of a @workflow"
        raise OutsideWorkflowError(msg)
    return run


def unfinished_tasks(execution: Execution) -> list[str]:
    """Return the names of the run's tasks that are not done, without those that the caller runs in."""
    own: set[asyncio.Task[object]] = set()
    task = asyncio.current_task(execution.loop)
    while task is not None:
        own.add(task)
        task = getattr(task, "transparent_of", None)
    return [task.get_name() for task in execution.loop.tasks if not task.done() and task not in own]
