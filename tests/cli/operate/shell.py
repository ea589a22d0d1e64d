"""Typing commands into a shell."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from romancy import App

ROOT = Path(__file__).parents[3]


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment_of(url: str | None, **more: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "140", **more}
    environment.pop("ROMANCY_URL", None)
    return environment if url is None else {**environment, "ROMANCY_URL": url}


async def romancy(*arguments: str, url: str | None, **environment: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "romancy", *arguments),
        env=environment_of(url, **environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Done(process.returncode or 0, out.decode(), err.decode())


async def parked(app: App, id: str) -> None:
    while not (await (await app.get(id)).info()).waiting_on:
        await asyncio.sleep(0.005)
