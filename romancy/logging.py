"""Logging in workflows and activities: each line says where it comes from, and a replay does not say it again."""

from __future__ import annotations

import logging

from romancy.activities.context import current_activity
from romancy.core.calls import current_run
from romancy.replay.execution import Execution


class RunFilter(logging.Filter):
    """Mute what workflow code logs while it is replayed, and add to every other record where it comes from.

    `logger` has one. Add another to a handler, and it serves all loggers whose records come there:
    ``handler.addFilter(RunFilter())``.

    The attributes of a record from a workflow are ``romancy_instance_id``, ``romancy_execution_id``,
    ``romancy_workflow``, ``romancy_run``, and, where the run stands in a trace, ``trace_id`` and ``span_id``. An
    activity's has no ``romancy_workflow``, but ``romancy_activity_id`` and ``romancy_attempt``. What a formatter is to
    name always has to have a default: ``logging.Formatter("...", defaults={"romancy_instance_id": "-"})``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a record that was logged before."""
        run = current_run()
        if isinstance(run, Execution):
            if run.is_replaying or run.is_poisoned:
                return False
            self._add_run(record, run)
            return True
        context = current_activity.get(None)
        if context is not None:
            command = context.command
            record.__dict__.update(
                romancy_instance_id=context.instance_id,
                romancy_execution_id=f"{context.execution_id:016x}",
                romancy_run=context.run,
                romancy_activity_id=command.activity_id,
                romancy_attempt=command.attempt,
            )
            if context.run_trace is not None:
                trace = context.run_trace.child(command.activity_id)
                record.__dict__.update(trace_id=trace.trace_id, span_id=trace.span_id)
        return True

    @staticmethod
    def _add_run(record: logging.LogRecord, run: Execution) -> None:
        record.__dict__.update(
            romancy_instance_id=run.instance_id,
            romancy_execution_id=f"{run.execution_id:016x}",
            romancy_workflow=run.workflow.name,
            romancy_run=run.run,
        )
        if run.trace is not None:
            record.__dict__.update(trace_id=run.trace.trace_id, span_id=run.trace.span_id)


logger = logging.getLogger("romancy.code")
"""For the code of workflows and activities: ``logger.info("charged %s", order.id)``.

A standard logger, below ``romancy``. A line of workflow code is logged when its turn is computed, which is just before
that is committed: it is logged again if the process dies in between, and never for being replayed.
"""
logger.addFilter(RunFilter())
