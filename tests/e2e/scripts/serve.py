"""Hold instances in every kind of wait until SIGTERM, leave the App, and tell what is left of it."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator
from datetime import timedelta

from romancy import App, Channel, RetryPolicy, activity, workflow

orders = Channel("serve_orders", str)
begun: list[str] = []


def say(line: str) -> None:
    """Print a line by one write, so that threads don't mix theirs."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def begin(what: str) -> None:
    say(f"begun {what}")
    begun.append(what)


@activity
async def serve_quick() -> str:
    begin("quick")
    await asyncio.sleep(0.2)
    return "quick"


@activity
def serve_threaded() -> str:
    begin("threaded")
    time.sleep(0.2)
    return "threaded"


@activity
async def serve_endless() -> str:
    begin("endless")
    try:
        await asyncio.sleep(3600)
    finally:
        say("endless is told to stop")
    return "endless"


@activity(retry=RetryPolicy(initial_interval=timedelta(hours=1), max_interval=timedelta(hours=1), max_duration=None))
async def serve_failing() -> str:
    begin("failing")
    raise ConnectionError("away")


@workflow
async def serve_all(hangs: bool) -> list[str]:
    done = await asyncio.gather(serve_quick(), serve_threaded(), *([serve_endless()] if hangs else []))
    return [*done, await orders.receive()]


@workflow
async def serve_message() -> str:
    return await orders.receive()


@workflow
async def serve_timer() -> str:
    await asyncio.sleep(3600)
    return "slept"


@workflow
async def serve_generator() -> None:
    async def ticks() -> AsyncGenerator[int, None]:
        try:
            while True:
                await asyncio.sleep(3600)
                yield 1
        finally:
            await asyncio.sleep(1)

    async for _ in ticks():
        break


@workflow
async def serve_back_off() -> str:
    return await serve_failing()


async def main(database: str, hot_limit: int, hangs: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = 60.0  # what asyncio's debug mode says of a busy machine is no news
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    threads = set(threading.enumerate())
    grace = timedelta(seconds=0.6 if hangs else 20)
    async with App(database, hot_limit=hot_limit, grace=grace) as app:
        for n, call in enumerate(
            [serve_all(hangs), serve_message(), serve_timer(), serve_generator(), serve_back_off()]
        ):
            await app.start(call, id=f"{n}")
        while len(begun) < 3 + hangs:
            await asyncio.sleep(0.005)
        say("ready")
        await stop.wait()
    gc.collect()
    left = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    left += [repr(thread) for thread in threading.enumerate() if thread not in threads]
    say(" ".join(["left:", *left]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "hangs"))
