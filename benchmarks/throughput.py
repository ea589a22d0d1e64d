"""Recorded activities per second: runs of ten trivial async activities, with durable commits."""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import statistics
import time
from typing import TYPE_CHECKING

from databases import KINDS, databases

from romancy import App, Hooks, activity, workflow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.synchronize import Barrier

ACTIVITIES = 10


@activity
async def step(n: int) -> int:
    """Do nothing that takes time."""
    return n + 1


@workflow
async def ten(n: int) -> int:
    """Run the activities one after the other."""
    for _ in range(ACTIVITIES):
        n = await step(n)
    return n


async def measure(
    url: str, runs: int, in_flight: int, barrier: Barrier | None = None, hooks: Sequence[Hooks] = ()
) -> dict[str, float]:
    """Run all, so many at a time, and return what it took."""
    async with App(url, max_activities=10_000, hooks=hooks) as app:
        left = iter(range(runs))
        worker = app.worker
        if worker is None:
            raise RuntimeError

        async def lane() -> None:
            for n in left:
                if await app.run(ten(n)) != n + ACTIVITIES:
                    raise RuntimeError

        for _ in range(3):
            await app.run(ten(0))
        if barrier is not None:
            await asyncio.to_thread(barrier.wait)
        batches, entries = worker.commits
        wall, cpu, loop_cpu = time.perf_counter(), time.process_time(), time.thread_time()
        await asyncio.gather(*(lane() for _ in range(in_flight)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        loop_cpu = time.thread_time() - loop_cpu
        commits = worker.commits[0] - batches
        entries = worker.commits[1] - entries
        if barrier is not None:
            await asyncio.to_thread(barrier.wait)
    count = runs * ACTIVITIES
    return {
        "activities/s": count / wall,
        "CPU s per 1,000": cpu / count * 1000,
        "of it on the event loop": loop_cpu / count * 1000,
        "commits": commits,
        "entries": entries,
    }


def measure_here(url: str, runs: int, in_flight: int, barrier: Barrier, found: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """Measure in a process of its own."""
    found.put(asyncio.run(measure(url, runs, in_flight, barrier)))


def measure_together(url: str, runs: int, in_flight: int, processes: int) -> dict[str, float]:
    """Measure in several processes on one database, which begin together, and add up."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(processes), context.Queue()
    arguments = (url, runs // processes, in_flight // processes, barrier, found)
    children = [context.Process(target=measure_here, args=arguments) for _ in range(processes)]
    for child in children:
        child.start()
    each = [found.get() for _ in children]
    for child in children:
        child.join()
    return {name: sum(one[name] for one in each) for name in each[0]}


def main() -> None:
    """Measure at several widths, a few times each, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--in-flight", type=int, nargs="*", default=[1, 50, 200])
    parser.add_argument("--on", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--gc-threshold", type=int, help="for gc.set_threshold(N, 20, 100); by default Python's own")
    args = parser.parse_args()
    if args.gc_threshold:
        gc.set_threshold(args.gc_threshold, 20, 100)
    for kind in args.on:
        with databases(kind) as made:
            for processes in args.processes:
                for in_flight in args.in_flight:
                    if in_flight < processes:
                        continue
                    runs = max(args.runs // 5, 1) if in_flight == 1 else args.runs
                    found = [
                        asyncio.run(measure(made.url(), runs, in_flight))
                        if processes == 1
                        else measure_together(made.url(), runs, in_flight, processes)
                        for _ in range(args.repeat)
                    ]
                    cells = [f"{name}: {statistics.median(f[name] for f in found):,.3f}" for name in found[0]]
                    spread = [f["activities/s"] for f in found]
                    where = f"{kind}, {processes} process{'es' if processes > 1 else ''}"
                    print(
                        f"{where:24} {in_flight:>5} in flight  "
                        + "  ".join(cells)
                        + f"  (spread {min(spread):,.0f}..{max(spread):,.0f})",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
