"""Serve until SIGTERM; an activity waits for a file to appear."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta
from pathlib import Path

from romancy import App, activity, workflow

gate = Path()
who = "first"


@activity
async def stale_wait(what: str) -> str:
    print(f"body of {what}, pid {who}", flush=True)
    while not gate.exists():
        await asyncio.sleep(0.005)
    return f"{what} by {who}"


@workflow
async def wait_for_gate(what: str) -> str:
    return await stale_wait(what)


async def main(database: str, hot_limit: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with App(database, workflows=[wait_for_gate], hot_limit=hot_limit, session_ttl=timedelta(seconds=1)) as app:
        await app.start(wait_for_gate("one"), id="one")
        await stop.wait()


if __name__ == "__main__":
    gate = Path(sys.argv[3])
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
