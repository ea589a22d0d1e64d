"""The process that is killed. It executes orders until its input ends."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from datetime import timedelta
from pathlib import Path

from romancy import App, RetryPolicy
from romancy.cli.demo.workflow import DIRECTORY, fulfil_order

DATABASE_NAME = "orders.db"

SESSION_TTL = timedelta(seconds=1)
"""How long the next process waits for what a killed one owned: the shortest there is, for impatient watchers."""


async def serve(directory: Path) -> None:
    """Execute orders until the process that started this one closes its input, or is gone."""
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()

    def watch_input() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(is_over.set)

    async with App(
        f"sqlite:///{directory / DATABASE_NAME}",
        workflows=[fulfil_order],
        session_ttl=SESSION_TTL,
        retry=RetryPolicy(initial_interval=timedelta(seconds=0.2)),
    ):
        threading.Thread(target=watch_input, daemon=True).start()
        await is_over.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    asyncio.run(serve(Path(os.environ[DIRECTORY])))
