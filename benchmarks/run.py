"""Run every benchmark of this folder, or the ones that are named: ``python benchmarks/run.py throughput core``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = ("throughput", "latency", "core", "commit", "recur", "transactional", "hooks")


def main() -> int:
    """Run the benchmarks one after the other, each in a process of its own; return the first failure's status."""
    names = sys.argv[1:] or NAMES
    for name in names:
        script = FOLDER / f"{name}.py"
        if name not in NAMES or not script.exists():
            print(f"there is no benchmark {name!r}: choose from {', '.join(NAMES)}", file=sys.stderr)
            return 2
        print(f"\n{name}\n{'-' * len(name)}", flush=True)
        status = subprocess.run([sys.executable, str(script)], check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
