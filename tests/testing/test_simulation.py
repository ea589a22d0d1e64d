"""The simulation is the same for the same seed, passes, and finds what is wrong."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from romancy.core.records import InboxKind
from romancy.storage import decision, entries, waking
from romancy.storage.rows import Row
from romancy.testing.simulation import Broken, simulate
from tests.docs.scripts import ROOT

SEEDS_THAT_FAILED = (0, 33, 130, 192, 903, 10_546)
"""Every seed that ever showed something, in the engine or in the model."""

_DIGEST = """
import hashlib
from romancy.testing.simulation import simulate as simulate_one
from romancy.testing.simulation.storage import SimulatedDatabase
digest = hashlib.sha256()
close = SimulatedDatabase.close
async def close_and_look(self):
    digest.update(repr(self.rows("SELECT * FROM history ORDER BY key, run, seq")).encode())
    await close(self)
SimulatedDatabase.close = close_and_look
for seed in range(12):
    simulate_one(seed)
print(digest.hexdigest())
"""


@pytest.mark.parametrize("seed", SEEDS_THAT_FAILED)
def test_seed_that_failed_once_passes(seed: int) -> None:
    simulate(seed)


def test_seeds_pass() -> None:
    for seed in range(1_000, 1_040):
        simulate(seed)


def test_seed_plays_the_same_in_every_process() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop().strip()) == len(hashlib.sha256().hexdigest())


def first_broken(count: int) -> str:
    """Return what the first of some seeds says that breaks something."""
    for seed in range(count):
        try:
            simulate(seed)
        except Broken as exc:
            return str(exc)
    raise AssertionError("nothing was found")


def without_fence(holds: Callable[..., bool]) -> Callable[..., bool]:
    def held(session: int, entry: Any, row: Row | None) -> bool:
        return holds(session, entry, None if row is None else row._replace(session=session, next_seq=entry.seq))

    return held


def test_it_finds_a_missing_fence() -> None:
    with mock.patch.object(decision, "holds", without_fence(entries.holds)):
        assert "seed" in first_broken(60)


def test_it_finds_a_lost_wake_up() -> None:
    def stays(status: int, wake_at: int | None, now: int, kind: InboxKind = InboxKind.MESSAGE) -> int | None:
        return wake_at

    with mock.patch.object(waking, "wake_for_mail", stays):
        assert "it does not end" in first_broken(60)


def test_command_names_the_seed_that_plays_it_again() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "romancy.testing.simulation", "--begin", "7", "--count", "3"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("3 seeds from 7 in ")
    assert done.stdout.endswith("0 broken: []\n")
