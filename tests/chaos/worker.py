"""A worker process, until it is killed: ``worker.py URL``."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from romancy import App
from tests.chaos.workflows import ALL


async def main() -> None:
    async with App(sys.argv[1], workflows=ALL, session_ttl=timedelta(seconds=2), max_recoveries=1_000):
        print("ready", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
