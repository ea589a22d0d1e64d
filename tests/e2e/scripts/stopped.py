"""Serve until SIGTERM; the process stops itself in the middle of the batch that a certain send is in."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from romancy import App, Channel, activity, workflow
from romancy.core.requests import Send
from romancy.storage import commit

letters: Channel[str] = Channel("stopped_letters", str)


@activity
async def stopped_step(what: str) -> str:
    return what


@workflow
async def stopped_sender(what: str) -> str:
    await stopped_step(what)
    await letters.send(what, to="receiver")
    return await stopped_step(f"{what} has sent")


@workflow
async def stopped_receiver(count: int) -> list[str]:
    return [await letters.receive() for _ in range(count)]


def stop_in_batch(decide: Callable[..., Any]) -> Callable[..., Any]:
    """Have the process stop when its rows are locked and nothing is written; once."""
    has_stopped = False

    def stopping(session: int, entries: Any, *others: Any, **options: Any) -> Any:
        nonlocal has_stopped
        if not has_stopped and any(isinstance(r, Send) for entry in entries for r in entry.requests):
            has_stopped = True
            print("stopping", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        return decide(session, entries, *others, **options)

    return stopping


async def main(database: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    commit.decide = stop_in_batch(commit.decide)  # type: ignore[attr-defined] # its own name, between lock and write
    ttl = timedelta(seconds=1)
    async with App(database, workflows=[stopped_sender, stopped_receiver], session_ttl=ttl) as app:
        await app.start(stopped_sender("stopped"), id="stopped")
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
