"""Run one instance with a session that lives for an hour; its second activity waits if told to: FILE [wait]."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from romancy import App, activity, workflow


@activity
async def step(number: int) -> int:
    print(f"begun {number}", flush=True)
    if number == 2 and "wait" in sys.argv:
        await asyncio.sleep(3600)
    return number


@workflow
async def steps() -> int:
    return sum([await step(number) for number in (1, 2, 3)])


async def main() -> None:
    async with App(f"sqlite:///{sys.argv[1]}", session_ttl=timedelta(hours=1)) as app:
        handle = await app.start(steps(), id="steps", on_conflict="attach")
        print(f"result {await handle.result()}", flush=True)


asyncio.run(main())
