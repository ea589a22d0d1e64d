"""A worker process, until it is killed: ``worker.py URL``."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from romancy import App
from tests.chaos import workflows


async def main() -> None:
    if workflows.outcome_of(0) is None:  # they are defined by being imported
        raise RuntimeError
    async with App(sys.argv[1], session_ttl=timedelta(seconds=2), max_recoveries=1_000):
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
