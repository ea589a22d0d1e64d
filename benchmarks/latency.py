"""Message to done across processes: one sends to a run that waits in the other, and hears of its end."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING

from databases import KINDS, databases

from romancy import App, Channel, Handle, workflow

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

letters: Channel[str] = Channel("latency_letters", str)


@workflow
async def answer() -> str:
    """Wait for a message, and end with it."""
    return await letters.receive()


async def serve(url: str, is_ready: Event, may_end: Event) -> None:
    """Execute what the other process starts."""
    async with App(url):
        is_ready.set()
        await asyncio.to_thread(may_end.wait)


def serve_here(url: str, is_ready: Event, may_end: Event) -> None:
    """Be the worker's process."""
    asyncio.run(serve(url, is_ready, may_end))


async def parked(handle: Handle[str]) -> None:
    """Wait until a run waits."""
    while not (await handle.info()).waiting_on:  # noqa: ASYNC110 - the run is another process's
        await asyncio.sleep(0.005)


async def measure(url: str, count: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds from sending to done, and from starting to done."""
    sent: list[float] = []
    started: list[float] = []
    async with App(url, worker=False) as app:
        for number in range(count):
            handle = await app.start(answer(), id=f"{number}")
            await parked(handle)
            await asyncio.sleep(0.03)
            began = time.perf_counter()
            await handle.send(letters, "hello")
            await handle.result()
            sent.append((time.perf_counter() - began) * 1e3)
            began = time.perf_counter()
            other = await app.start(answer(), id=f"other-{number}")
            await other.send(letters, "hello")
            await other.result()
            started.append((time.perf_counter() - began) * 1e3)
    return sent, started


def shown(values: list[float]) -> str:
    """Render a distribution."""
    cuts = statistics.quantiles(values, n=100)
    return f"p50 {cuts[49]:6.2f} ms   p90 {cuts[89]:6.2f} ms   p99 {cuts[98]:6.2f} ms"


def main() -> None:
    """Measure on each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--on", nargs="*", choices=KINDS, default=KINDS)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for kind in args.on:
        with databases(kind) as made:
            url, is_ready, may_end = made.url(), context.Event(), context.Event()
            worker = context.Process(target=serve_here, args=(url, is_ready, may_end))
            worker.start()
            is_ready.wait()
            sent, started = asyncio.run(measure(url, args.count))
            may_end.set()
            worker.join()
        print(f"{kind:10} message to done  {shown(sent)}", flush=True)
        print(f"{kind:10} start, message, done  {shown(started)}", flush=True)


if __name__ == "__main__":
    main()
