"""Real processes under test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import romancy

_SCRIPTS = Path(__file__).parent / "scripts"
_PACKAGE = Path(romancy.__file__).parent.parent


class Process:
    """A running script; it reports by printing lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.errors = ""

    async def line(self) -> str:
        """Return the next line that it prints; empty when it has ended."""
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().rstrip("\n")

    async def lines(self) -> list[str]:
        """Return what is left of its output, when it has ended."""
        assert self._process.stdout is not None
        return (await self._process.stdout.read()).decode().splitlines()

    async def expect(self, line: str) -> None:
        """Read on until it prints a line."""
        seen: list[str] = []
        while (got := await self.line()) != line:
            seen.append(got)
            if not got:
                await self.end()
                raise AssertionError(f"expected {line!r}, got {seen}, and errors:\n{self.errors}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._process.returncode is None:
            # Not Popen's way: it would reap a process that has ended before asyncio's own watcher does.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self) -> int:
        """Wait until it has ended and return its exit status; what it wrote to stderr is in ``errors``."""
        assert self._process.stderr is not None
        self.errors += (await self._process.stderr.read()).decode()
        return await self._process.wait()

    def kill(self) -> None:
        """End it if it runs, stopped or not."""
        self.signal(signal.SIGKILL)


@asynccontextmanager
async def running(
    script: str,
    *arguments: object,
    flags: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[Process]:
    """Run a script of this folder in a process of its own, which does not outlive the block."""
    paths = [str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *flags,
        str(_SCRIPTS / script),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
    )
    process = Process(child)
    try:
        yield process
    finally:
        process.kill()
        await child.communicate()
