"""Plant one defect after the other into a copy of the package, and let the simulation look for it.

``python -m tests.mutations`` prints a table; the exit status is 1 if a defect was not found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutations.defects import DEFECTS, Defect

ROOT = Path(__file__).parents[2]
_PLAY = """
import sys
from romancy.testing.simulation import Broken, simulate
for seed in range(int(sys.argv[1])):
    try:
        simulate(seed)
    except Broken as exc:
        print(str(exc)[:160])
        sys.exit(1)
"""


def plant(defect: Defect, package: Path) -> None:
    """Replace what the defect replaces."""
    place = package / defect.file
    text = place.read_text(encoding="utf-8")
    if text.count(defect.old) != 1:
        msg = f"{defect.file}: what the defect replaces stands there {text.count(defect.old)} times: {defect.old!r}"
        raise ValueError(msg)
    place.write_text(text.replace(defect.old, defect.new), encoding="utf-8")


def look_for(defect: Defect, seeds: int) -> str | None:
    """Return what the first seed says that notices a defect; None if none does."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "romancy", Path(folder, "romancy"), ignore=shutil.ignore_patterns("__pycache__"))
        plant(defect, Path(folder, "romancy"))
        try:
            done = subprocess.run(
                [sys.executable, "-c", _PLAY, str(seeds)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": folder},
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "it does not come to an end"
    if done.returncode == 0:
        return None
    return " ".join((done.stdout or done.stderr[-160:]).split())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many seeds to try at most for each")
    parser.add_argument("--only", type=int, help="the number of one defect")
    given = parser.parse_args()
    left = 0
    for number, defect in enumerate(DEFECTS, 1):
        if given.only not in {None, number}:
            continue
        found = look_for(defect, given.seeds)
        left += found is None
        seed = re.match(r"seed (\d+)", found or "")
        told = "NOT FOUND" if found is None else f"seed {seed[1]}" if seed else "at once"
        print(f"{number:2} {told:10} {defect.file}: {defect.means}\n     {(found or '')[:110]}", flush=True)
    print(f"{len(DEFECTS)} defects, {left} not found")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
