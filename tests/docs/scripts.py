"""Run what the documentation shows, as its reader would: in a process of its own, with warnings as errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

_PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(text: str) -> list[str]:
    return _PYTHON_BLOCK.findall(text)


def run_python(*arguments: str | Path, directory: Path, stdin: str = "") -> str:
    """Return what Python, run with these arguments in a directory, prints; it must succeed without a complaint."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=stdin,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
