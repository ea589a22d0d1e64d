"""Random programs run the same live, replayed, and evicted and resumed; and in processes of any heap and hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.replay.harness import DeadlockedError, Shell, check_replay
from tests.replay.scripting import varied

from .programs import program_of, run_tree

_SEEDS = 320
_PARTS = 8
_ROOT = Path(__file__).parent.parent.parent


def settings_of(seed: int) -> dict[str, Any]:
    program = program_of(seed)
    return {
        "plan": varied(seed),
        "messages": program.messages,
        "cancel_at": program.cancel_at,
        "grace": program.grace,
        "time_limit": program.time_limit,
        "seed": seed,
        "jitter": True,
        "outside": 3 * (seed % 2),
    }


def live(seed: int) -> Shell | None:
    """Run a seed's program; None if it waits for what never comes."""
    shell = Shell(run_tree, program_of(seed).tree, **settings_of(seed))
    try:
        return shell.run()
    except DeadlockedError:
        assert shell.execution.undoing.waits == ()  # activities always end
        return None


def check_seed(seed: int) -> int:
    """Compare a program's live run with its replay and with runs that leave memory; return how often they did."""
    program = program_of(seed)
    run = live(seed)
    if run is None:
        return 0
    assert run.last.blocked is None, run.last.blocked
    check_replay(run)
    evictions = 0
    for probability in (1.0, 0.5):
        evicted = Shell(run_tree, program.tree, evict=probability, **settings_of(seed)).run()
        evictions += evicted.evictions
        if not program.has("'gather'"):  # with return_exceptions it swallows
            assert evicted.warnings == []
        assert evicted.trace == run.trace
        assert evicted.end == run.end
        assert evicted.commands == run.commands
    return evictions


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # of programs that swallow the signal
@pytest.mark.parametrize("part", range(_PARTS))
def test_programs_agree_live_replayed_and_evicted(part: int) -> None:
    evictions = 0
    for seed in range(part, _SEEDS, _PARTS):
        try:
            evictions += check_seed(seed)
        except AssertionError as exc:
            exc.add_note(f"seed {seed}")
            raise
    assert evictions > _SEEDS


@pytest.mark.parametrize("seed", range(0, 60, 6))
def test_program_evicted_at_any_one_turn_agrees(seed: int) -> None:
    program = program_of(seed)
    run = live(seed)
    if run is None:
        return
    for number in range(1, len(run.turns)):
        evicted = Shell(run_tree, program.tree, evict=[number], **settings_of(seed)).run()
        assert (evicted.trace, evicted.commands, evicted.end) == (run.trace, run.commands, run.end)


_CHILD = """
import hashlib, random, sys, warnings
warnings.simplefilter("ignore")
system = random.SystemRandom()
junk = [bytearray(system.randrange(16, 900)) for _ in range(int(sys.argv[1]))]
del junk[::2]
from tests.property.test_programs import live
digest, count = hashlib.sha256(), 0
for seed in range(120):
    junk.append([object() for _ in range(system.randrange(500))])
    run = live(seed)
    if run is not None:
        digest.update(repr((run.trace, run.commands, run.end)).encode())
        count += 1
print(digest.hexdigest(), count)
"""


def test_programs_agree_in_processes_of_any_heap_and_hash_seed() -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(junk)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(_ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for junk, hash_seed in ((0, "0"), (5_000, "1"), (20_000, "random"), (777, "7"), (50_000, "0"))
    ]
    found: set[str] = set()
    for process in started:
        out, _ = process.communicate(timeout=50)
        assert process.returncode == 0
        found.add(out)
    assert len(found) == 1
    assert int(found.pop().split()[1]) > 60
