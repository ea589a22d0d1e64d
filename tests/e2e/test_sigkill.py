"""Processes killed for real, at every commit and at random moments."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from romancy.core.events import EventKind

from .processes import running

pytestmark = pytest.mark.anyio

_ENDED = (EventKind.ACTIVITY_COMPLETED, EventKind.ACTIVITY_FAILED)
_PIECES = ["reserve", "label", "charge"]


@contextmanager
def connected(path: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection:
        yield connection


def has_schema(path: Path) -> bool:
    """Tell whether a process has lived for long enough to create the tables."""
    with connected(path) as connection:
        return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'history'").fetchone() is not None


def free(path: Path) -> None:
    """Expire the sessions of dead processes, as waiting for ten seconds would."""
    with connected(path) as connection, connection:
        connection.execute("UPDATE sessions SET expires_at = 0")


def recorded(path: Path) -> set[str]:
    """Return the idempotency keys of the activities whose end is in the database."""
    with connected(path) as connection:
        found = connection.execute(
            "SELECT execution_id, history.run, activity_id FROM history JOIN instances USING (key)"
            f" WHERE kind IN ({_ENDED[0]:d}, {_ENDED[1]:d})"
        )
        return {f"{execution:016x}/{run}/{id}" for execution, run, id in found}


class Ledger:
    """What the bodies did, and what was recorded when each process began."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger"
        self.database = folder / "test.db"
        self.url = f"sqlite:///{self.database}?synchronous=NORMAL"
        self.repeated: list[str] = []
        self._read = 0
        self._recorded: set[str] = set()

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def check(self) -> None:
        """After a process has ended: note bodies of what had been recorded before it began."""
        lines = self.lines()
        if not lines and not has_schema(self.database):
            return  # killed before it had come to anything
        self.repeated += [line for line in lines[self._read :] if line.split()[0] in self._recorded]
        self._read = len(lines)
        self._recorded = recorded(self.database)
        free(self.database)


def check_outcome(ledger: Ledger, printed: list[str], count: int) -> None:
    """Compare the outcome and the effects with those of a run that nothing disturbs."""
    outcomes = dict(line.split(" ", 1) for line in printed if line != "started")
    assert outcomes["depot"] == str(sorted(f"parcel-{n}" for n in range(count)))
    for n in range(count):
        if n % 3 == 2:
            assert outcomes[f"{n}"].endswith(f"order {n} is rejected")
        else:
            assert outcomes[f"{n}"] == str([*(f"{piece}-{n}" for piece in _PIECES), "granted"])
    effects = Counter(line.split()[1] for line in ledger.lines())
    expected = {f"{piece}-{n}" for n in range(count) for piece in _PIECES}
    assert set(effects) == expected | {f"release-{n}" for n in range(count) if n % 3 == 2}
    assert not ledger.repeated
    keys = {line.split()[1]: set[str]() for line in ledger.lines()}
    for line in ledger.lines():
        key, effect = line.split()
        keys[effect].add(key)
    assert {len(each) for each in keys.values()} == {1}
    with connected(ledger.database) as connection:
        (twice,) = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM history WHERE activity_id IS NOT NULL AND kind NOT IN (?, ?)"
            " GROUP BY key, run, activity_id HAVING count(*) > 1)",
            (EventKind.ACTIVITY_RETRIED, EventKind.COMPENSATION_STARTED),
        ).fetchone()
        assert twice == 0


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_process_killed_at_every_commit_ends_as_undisturbed(tmp_path: Path, hot_limit: int, moment: str) -> None:
    ledger = Ledger(tmp_path)
    count, kills = 6, 0
    environment = {"DIE_BEFORE": "1"} if moment == "before" else {}
    while True:
        # Each process gets one commit further, and dies of the next.
        fatal = {"DIE_AT_COMMIT": str(2 + kills % 3), **environment}
        async with running("killed.py", ledger.url, hot_limit, count, ledger.path, environment=fatal) as process:
            printed = await process.lines()
            status = await process.end()
        ledger.check()
        if status == 0:
            break
        assert status == -signal.SIGKILL, process.errors
        kills += 1
        assert kills < 60
    assert kills >= 2
    check_outcome(ledger, printed, count)


async def test_process_killed_at_random_moments_ends_as_undisturbed(tmp_path: Path, hot_limit: int) -> None:
    ledger = Ledger(tmp_path)
    chance = random.Random(hot_limit)
    count = 60
    for _ in range(5):
        async with running("killed.py", ledger.url, hot_limit, count, ledger.path) as process:
            await process.expect("started") if chance.random() < 0.3 else await process_began(ledger, process.pid)
            await asyncio.sleep(chance.random() * 0.04)
            process.signal(signal.SIGKILL)
            await process.lines()
            await process.end()
        ledger.check()
    async with running("killed.py", ledger.url, hot_limit, count, ledger.path) as process:
        printed = await process.lines()
        assert await process.end() == 0, process.errors
    ledger.check()
    check_outcome(ledger, printed, count)


async def process_began(ledger: Ledger, pid: int) -> None:
    """Wait until a process has added to the ledger, or has nothing more to add."""
    before = len(ledger.lines())
    for _ in range(100):
        if len(ledger.lines()) > before:
            return
        await asyncio.sleep(0.005)
