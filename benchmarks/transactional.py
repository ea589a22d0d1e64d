"""Runs at once with one transactional activity each, on SQLite with synchronous=FULL; beside them ordinary ones."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from romancy import App, activity, connection, workflow

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


@activity(transactional=True)
async def prepare() -> None:
    """Make a table."""
    await connection().execute("CREATE TABLE moves (number INTEGER, amount INTEGER)")


@activity(transactional=True)
async def move(number: int) -> int:
    """Do what such an activity typically does: two statements."""
    db = connection()
    await db.execute("INSERT INTO moves VALUES (?, ?)", (number, 7))
    found = await db.fetch_one("SELECT count(*) FROM moves")
    return found[0] if found else 0


@activity
async def step(number: int) -> int:
    """Do nothing that takes time."""
    return number


@workflow
async def begin() -> None:
    """Prepare the database."""
    await prepare()


@workflow
async def transactional(number: int) -> int:
    """Call the transactional activity."""
    return await move(number)


@workflow
async def ordinary(number: int) -> int:
    """Call the ordinary one."""
    return await step(number)


async def timed(app: App, runs: int, call: Callable[[int], Any]) -> tuple[float, list[float]]:
    """Run all at once; return what it took in all, and each of them."""

    async def one(number: int) -> float:
        await app.run(call(number))
        return time.perf_counter() - begun

    begun = time.perf_counter()
    each = await asyncio.gather(*(one(number) for number in range(runs)))
    return time.perf_counter() - begun, each


async def measure(path: Path, runs: int) -> dict[str, float]:
    """Measure on a database of its own."""
    async with App(f"sqlite:///{path}") as app:
        await app.run(begin())
        await app.run(ordinary(0))
        plain, _ = await timed(app, runs, ordinary)
        wall, each = await timed(app, runs, transactional)
        alone = time.perf_counter()
        await app.run(transactional(0))
        alone = time.perf_counter() - alone
    return {
        "ms for all": wall * 1000,
        "activities/s": runs / wall,
        "ms until half have ended": statistics.median(each) * 1000,
        "ms for one alone": alone * 1000,
        "ms for all, ordinary": plain * 1000,
    }


def main() -> None:
    """Measure a few times and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    found: list[dict[str, float]] = []
    for _ in range(args.repeat):
        with tempfile.TemporaryDirectory() as folder:
            found.append(asyncio.run(measure(Path(folder) / "bench.db", args.runs)))
    print(f"{args.runs} runs at once, one transactional activity each; median of {args.repeat}, and the range")
    for name in found[0]:
        values = sorted(one[name] for one in found)
        print(f"  {name:26} {statistics.median(values):10,.1f}   {values[0]:,.1f} to {values[-1]:,.1f}")


if __name__ == "__main__":
    main()
