"""``python -m romancy.testing.simulation``: play seeds."""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time

from romancy.testing.simulation.simulate import Broken, simulate


def main() -> int:
    """Play seeds, print those that break something, and return 1 if any did."""
    parser = argparse.ArgumentParser(prog="python -m romancy.testing.simulation", description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, help="play these")
    parser.add_argument("--begin", type=int, help="play this and those that follow; by default a random one")
    parser.add_argument("--count", type=int, help="how many at most")
    parser.add_argument("--seconds", type=float, help="for how long")
    given = parser.parse_args()
    begin = random.SystemRandom().randrange(2**40) if given.begin is None else given.begin
    seeds = given.seeds or itertools.count(begin)
    if not given.seeds and given.count is None and given.seconds is None:
        parser.error("name the seeds, or say --count or --seconds")
    since = time.monotonic()
    played, broken = 0, list[int]()
    for seed in seeds:
        if given.count is not None and played >= given.count:
            break
        if given.seconds is not None and time.monotonic() - since >= given.seconds:
            break
        try:
            simulate(seed)
        except Broken as exc:
            broken.append(seed)
            print(f"{exc}\nagain: python -m romancy.testing.simulation {seed}", flush=True)
        played += 1
    passed = time.monotonic() - since
    first = given.seeds[0] if given.seeds else begin
    print(f"{played} seeds from {first} in {passed:.1f} s, {len(broken)} broken: {broken}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
