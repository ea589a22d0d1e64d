"""Telling whether a process of this machine is still there.

A worker that is killed leaves its session behind, and its time to live has to pass before another worker may take
over. On the same machine nobody has to wait: the process is gone, and what is gone commits nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_START_TIME = 19
"""Where /proc/PID/stat holds the start time, counted from the field behind the command's name."""


class _Process(NamedTuple):
    """A process, unmistakable: a number is used again, in another namespace, after a reboot or after its end."""

    boot: str
    namespace: str
    pid: int
    start: str


def this_process() -> str:
    """Return a token for this process; empty where the system does not tell (only Linux does)."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        process = _Process(boot, _namespace(), os.getpid(), _start_of(os.getpid()))
    except OSError:
        return ""
    return "/".join(str(part) for part in process)


def is_gone(token: str) -> bool:
    """Tell whether a process has certainly ended; False for one of another machine, container or boot."""
    here = this_process().split("/")
    there = token.split("/")
    if len(there) != len(_Process._fields) or here[:2] != there[:2] or not there[2].isdigit():
        return False
    pid = int(there[2])
    try:
        os.kill(pid, 0)  # only asks; /proc may hide the processes of other users
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        return _start_of(pid) != there[3]
    except OSError:
        return False


def _namespace() -> str:
    return str((_PROC / "self/ns/pid").readlink())


def _start_of(pid: int) -> str:
    """Return a process's start time, in clock ticks since boot; empty for one that waits to be buried."""
    state, *fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return "" if state in {"Z", "X"} else fields[_START_TIME - 1]
