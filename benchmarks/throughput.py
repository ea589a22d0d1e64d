"""Recorded activities per second: runs of ten trivial async activities, on SQLite with synchronous=FULL."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

from romancy import App, activity, workflow

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


async def measure(path: Path, runs: int, in_flight: int) -> dict[str, float]:
    """Run all, so many at a time, and return what it took."""
    async with App(f"sqlite:///{path}", max_activities=10_000) as app:
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
        batches, entries = worker.commits
        wall, cpu, loop_cpu = time.perf_counter(), time.process_time(), time.thread_time()
        await asyncio.gather(*(lane() for _ in range(in_flight)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        loop_cpu = time.thread_time() - loop_cpu
        commits = worker.commits[0] - batches
        entries = worker.commits[1] - entries
    size = sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith(path.name))
    count = runs * ACTIVITIES
    return {
        "activities/s": count / wall,
        "CPU s per 1,000": cpu / count * 1000,
        "of it on the event loop": loop_cpu / count * 1000,
        "commits": commits,
        "entries": entries,
        "bytes per activity": size / count,
    }


def main() -> None:
    """Measure at several widths, a few times each, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000)
    parser.add_argument("--in-flight", type=int, nargs="*", default=[1, 50, 200])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--gc-threshold", type=int, help="for gc.set_threshold(N, 20, 100); by default Python's own")
    args = parser.parse_args()
    if args.gc_threshold:
        gc.set_threshold(args.gc_threshold, 20, 100)
    for in_flight in args.in_flight:
        runs = max(args.runs // 5, 1) if in_flight == 1 else args.runs
        found: list[dict[str, float]] = []
        for _ in range(args.repeat):
            with tempfile.TemporaryDirectory(dir=os.environ.get("ROMANCY_BENCH_DIR")) as folder:
                found.append(asyncio.run(measure(Path(folder) / "bench.db", runs, in_flight)))
        cells = [f"{name}: {statistics.median(f[name] for f in found):,.3f}" for name in found[0]]
        spread = [f["activities/s"] for f in found]
        print(f"{in_flight:>5} in flight  " + "  ".join(cells) + f"  (spread {min(spread):,.0f}..{max(spread):,.0f})")


if __name__ == "__main__":
    main()
