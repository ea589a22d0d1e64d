"""Hooks: be told what happens, and log it with where it comes from.

Run it: python examples/watching.py
"""

from __future__ import annotations

import asyncio
import logging
import sys

from romancy import App, Hooks, RetryPolicy, activity, activity_info, logger, workflow
from romancy.core.hooks import ActivityEvent, RunRef, WorkflowEnded


class Slack(Hooks):
    """Tell people of what they should know; it may be slow, for it has a thread of its own."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def activity_retried(self, run: RunRef, event: ActivityEvent) -> None:
        if event.failure is not None:
            self.told.append(f"{run.instance_id}: attempt {event.attempt} at {event.name}: {event.failure.message}")

    def workflow_completed(self, run: RunRef, event: WorkflowEnded) -> None:
        self.told.append(f"{run.instance_id}: {run.workflow} is {event.status}")


@activity(retry=RetryPolicy(initial_interval=0.01))
async def render(page: int) -> str:
    logger.info("rendering page %d", page)
    if activity_info().attempt == 1:
        raise ConnectionError("the printer is busy")
    return f"page {page}"


@workflow
async def report() -> list[str]:
    logger.info("two pages")
    return [await render(1), await render(2)]


async def main() -> None:
    lines = logging.StreamHandler(sys.stdout)
    where = {"romancy_activity_id": "-"}
    lines.setFormatter(
        logging.Formatter("%(romancy_instance_id)s %(romancy_activity_id)s: %(message)s", defaults=where)
    )
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    slack = Slack()
    async with App("sqlite://", hot_limit=0, hooks=[slack]) as app:  # replayed at every wait, and logged once
        await app.run(report(), id="report")
    print(*slack.told, sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
