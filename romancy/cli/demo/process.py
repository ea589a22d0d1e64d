"""The process that executes the orders, as the one sees it that starts and kills it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from romancy.cli.demo.workflow import DIRECTORY, SEED

if TYPE_CHECKING:
    from pathlib import Path

LOG_NAME = "worker.log"

_PATIENCE = 15.0
_LOG_TAIL = 15


class ProcessFailedError(Exception):
    """The process ended although nobody killed it."""


class WorkerProcess:
    """One process at a time, started and killed as often as one likes; its output goes to a log.

    It is in a session of its own, so that Ctrl-C reaches only the process that started it, and it ends by
    itself when that one is gone.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory = directory
        self._log = directory / LOG_NAME
        self._environment = {**os.environ, DIRECTORY: str(directory), SEED: str(seed)}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> int:
        """Start it and return its process id."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "romancy.cli.demo.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        return self._process.pid

    def check(self) -> None:
        """Make sure that it is running.

        Raises:
            ProcessFailedError: It is not; the message holds the end of its log.
        """
        if self._process is not None and self._process.returncode is not None:
            self._fail(self._process)

    async def kill(self) -> None:
        """Kill it with SIGKILL and wait until it is dead."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._process = None

    async def stop(self) -> None:
        """Close its input and wait until it has shut itself down.

        Raises:
            ProcessFailedError: It failed in doing so, or did not end.
        """
        process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            async with asyncio.timeout(_PATIENCE):
                await process.wait()
        except TimeoutError:
            await self.kill()
            raise ProcessFailedError(f"process {process.pid} did not end when it was asked to") from None
        self._process = None
        if process.returncode:
            self._fail(process)

    def _fail(self, process: asyncio.subprocess.Process) -> None:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL:]
        told = "\n".join(lines) or "it printed nothing"
        raise ProcessFailedError(f"process {process.pid} ended by itself, with status {process.returncode}:\n{told}")
