"""What a workflow may know of its own run."""

from __future__ import annotations

import msgspec

from romancy.replay.context import current_execution


class WorkflowInfo(msgspec.Struct, frozen=True):
    """The running workflow: its instance, its definition, and its run's number (from 0, raised by recur)."""

    instance_id: str
    workflow: str
    version: str
    run: int
    is_replaying: bool


def workflow_info() -> WorkflowInfo:
    """Describe the running workflow.

    Raises:
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("workflow_info()")
    return WorkflowInfo(
        instance_id=execution.instance_id,
        workflow=execution.workflow.name,
        version=execution.workflow.version,
        run=execution.run,
        is_replaying=execution.is_replaying,
    )
