"""Recur many times in a row: what a run costs, and what memory it takes, at the beginning and at the end."""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from pathlib import Path

from romancy import App, activity, recur, workflow

RUNS = 10_000
PORTION = 1_000
_marks: list[tuple[float, int]] = []


@activity
async def recur_step(number: int) -> int:
    """Do next to nothing."""
    return number


@workflow
async def recur_count(number: int) -> int:
    """Do one activity in each run."""
    await recur_step(number)
    if number % PORTION == 0:
        _marks.append((time.perf_counter(), resident()))
    if number < RUNS:
        recur(recur_count(number + 1))
    return number


def resident() -> int:
    """Return how many bytes of memory the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def measure(folder: str) -> None:
    """Recur on a file, with every commit on the disk."""
    async with App(f"sqlite:///{folder}/recur.db") as app:
        await app.run(recur_count(0))
        history = await app.list(limit=1)
    print(f"{RUNS:,} runs of one activity; the last is number {history[0].run:,}")
    for (began, _), (ended, memory), number in zip(_marks, _marks[1:], range(PORTION, RUNS + 1, PORTION), strict=False):
        print(
            f"  up to {number:>6,}: {(ended - began) / PORTION * 1000:.2f} ms a run, {memory / 2**20:.1f} MiB resident"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as chosen:
        asyncio.run(measure(chosen))
