"""Processes are killed and stopped at random, and nothing is lost, doubled or different.

``ROMANCY_CHAOS_SECONDS`` and ``ROMANCY_CHAOS_RUNS`` make it longer (60 and 2000 are the full run); the seed that a
failure shows is given by ``ROMANCY_CHAOS_SEED``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from romancy import App, Handle, StorageError, WorkflowFailedError
from romancy.storage.urls import storage_at
from tests.e2e.conftest import BackEnd, back_end
from tests.e2e.tables import execute_at, rows_at

from .workflows import LEDGER, PARAMETERS, call_of, letters, messages_for, outcome_of, steps_of

T = TypeVar("T")
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]
__all__ = ["back_end"]

WORKERS = 4
SECONDS = float(os.environ.get("ROMANCY_CHAOS_SECONDS", "8"))
RUNS = int(os.environ.get("ROMANCY_CHAOS_RUNS", "150"))
SEED = int(os.environ.get("ROMANCY_CHAOS_SEED", time.time_ns() % 1_000_000))
TTL = 2.0
AFTERWARDS = 120.0
"""Seconds in which everything must have ended when nobody is disturbed any more."""
SLACK = 20_000
"""Microseconds by which two clocks may differ."""


class Crew:
    """Worker processes, of which some are always being killed, stopped or started."""

    def __init__(self, url: str, environment: dict[str, str], chance: random.Random) -> None:
        self._url = url
        self._environment = environment
        self._chance = chance
        self._processes: list[asyncio.subprocess.Process] = []
        self.done: Counter[str] = Counter()

    async def start(self) -> asyncio.subprocess.Process:
        root = str(Path(__file__).parents[2])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.worker",
            self._url,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self._environment, "PYTHONPATH": root},
            cwd=root,
        )
        self._processes.append(process)
        return process

    async def open(self) -> None:
        for process in [await self.start() for _ in range(WORKERS)]:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"

    async def disturb(self, until: float) -> None:
        """Do something to a process, again and again."""
        while time.monotonic() < until:
            await asyncio.sleep(self._chance.uniform(0.05, 0.5))
            victim = self._chance.choice(self._processes)
            if self._chance.random() < 0.5:
                self.done["killed"] += 1
                await self._end(victim)
                await self.start()
            else:
                self.done["stopped"] += 1
                os.kill(victim.pid, signal.SIGSTOP)
                await asyncio.sleep(self._chance.choice([0.05, 0.3, TTL * 1.5]))
                os.kill(victim.pid, signal.SIGCONT)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._processes.remove(process)
        process.kill()
        await process.wait()

    async def close(self) -> None:
        for process in list(self._processes):
            await self._end(process)


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the database answers: somebody who is stopped may keep it."""
    while True:
        try:
            return await ask()
        except StorageError:
            await asyncio.sleep(0.05)


async def drive(app: App, chance: random.Random) -> list[Handle[Any]]:
    """Start all runs and send them their messages, a little at a time."""
    handles: list[Handle[Any]] = []
    for run in range(RUNS):
        handles.append(await insist(partial(app.start, call_of(run), id=f"chaos-{run}", on_conflict="attach")))
        for number in range(messages_for(run)):
            await insist(partial(app.send, letters, 10, to=f"chaos-{run}", message_id=f"{number}"))
        await asyncio.sleep(chance.uniform(0, SECONDS / RUNS))
    return handles


async def outcome(handle: Handle[Any]) -> int | None:
    try:
        return cast("int", await insist(handle.result))
    except WorkflowFailedError:
        return None


async def ends_of(app: App, id: str) -> dict[tuple[str, str], int]:
    """Return when the end of each of an instance's activities was recorded, of all of its runs."""
    handle = await app.get(id)
    found: dict[tuple[str, str], int] = {}
    for info in await handle.runs():
        for event in await handle.history(run=info.run):
            if event.kind in {"activity_completed", "activity_failed"} and event.activity_id is not None:
                found[f"{info.run}", event.activity_id] = round(event.at.timestamp() * 1_000_000)
    return found


def place_of(idempotency_key: str) -> tuple[str, str]:
    """Return the run and the activity id that an idempotency key tells."""
    _, run, activity_id = idempotency_key.rsplit("/", 2)
    return run, activity_id


async def test_nothing_is_lost_doubled_or_different(back_end: BackEnd, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    url = back_end.lasting_url()
    ledger = tmp_path / "ledger"
    ledger.touch()
    environment = {LEDGER: str(ledger), PARAMETERS: "$1, $2" if back_end.name == "postgres" else "?, ?"}
    storage = storage_at(url)
    async with App(storage, worker=False) as app:
        await execute_at(url, "CREATE TABLE chaos_rows (run INTEGER, number INTEGER)")
        crew = Crew(url, environment, chance)
        try:
            await crew.open()
            disturbing = asyncio.create_task(crew.disturb(time.monotonic() + SECONDS))
            handles = await drive(app, chance)
            await disturbing
            async with asyncio.timeout(AFTERWARDS):
                outcomes = [await outcome(handle) for handle in handles]
        finally:
            await crew.close()
        seen = f"seed {SEED}, {dict(crew.done)}"
        assert outcomes == [outcome_of(run) for run in range(RUNS)], seen
        assert set(crew.done) == {"killed", "stopped"}, seen
        entered: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for line in ledger.read_text().splitlines():
            at, instance, key, *_ = line.split()
            entered[instance][key].append(int(at))
        for run in range(RUNS):
            ids = [f"chaos-{run}", *([f"chaos-{run}/1", f"chaos-{run}/2"] if run % 6 == 2 else [])]
            assert sum(len(entered[id]) for id in ids) == steps_of(run), (seen, run)
            for id in ids:
                ends = await ends_of(app, id)
                last = {place_of(key): max(times) for key, times in entered[id].items()}
                late = {key: last[key] - end for key, end in ends.items() if last.get(key, 0) > end + SLACK}
                assert late == {}, (seen, id)
        booked = (await rows_at(url, "SELECT run, number FROM chaos_rows ORDER BY run, number"))[0]
        assert booked == [(run, number) for run in range(RUNS) if run % 6 == 5 for number in range(3)], seen
