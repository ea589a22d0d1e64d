"""Serve until SIGTERM, on a machine whose clock is wrong by so many seconds."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from datetime import timedelta
from typing import Any

from romancy import App, Channel, activity, now, sleep, workflow
from romancy.core.definitions import Workflow

letters: Channel[str] = Channel("skewed_letters", str)


@activity
async def skewed_step(what: str) -> str:
    return what


@workflow
async def skewed_sleeper(seconds: float) -> float:
    """Return for how long it has slept, by the workflow's clock."""
    began = now()
    await skewed_step("before")
    await sleep(seconds)
    return (now() - began).total_seconds()


@workflow
async def skewed_waiter(seconds: float) -> str:
    """Wait for a message, but not for longer than so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await letters.receive()
    except TimeoutError:
        return "in vain"


WORKFLOWS: list[Workflow[..., Any]] = [skewed_sleeper, skewed_waiter]


def set_clock(by: float) -> None:
    """Have this process take it for so much later than it is."""
    time_ns = time.time_ns
    time.time_ns = lambda: time_ns() + round(by * 1e9)
    time.time = lambda: time.time_ns() / 1e9


async def main(database: str, seconds: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    set_clock(seconds)
    async with App(database, workflows=WORKFLOWS, session_ttl=timedelta(seconds=2)):
        print("serving", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
