"""Poll for as long as it takes: recur closes a run and opens the next, so that no history grows for ever.

Run it: python examples/polling_with_recur.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from romancy import App, activity, recur, sleep, workflow, workflow_info

LOOKS_PER_RUN = 3
INTERVAL = timedelta(seconds=0.05)  # or hours


@activity
async def render_progress(look: int) -> int:
    return look * 15  # percent, as some service might tell


@workflow
async def wait_for_render(look: int = 1) -> str:
    for number in range(look, look + LOOKS_PER_RUN):
        percent = await render_progress(number)
        if percent >= 100:
            return f"rendered after {number} looks, in run {workflow_info().run}"
        await sleep(INTERVAL)
    return recur(wait_for_render(look + LOOKS_PER_RUN))


async def main() -> None:
    async with App("sqlite://") as app:
        handle = await app.start(wait_for_render(), id="film")
        print(await handle.result())
        print("events of the last run:", [event.kind for event in await handle.history()])


if __name__ == "__main__":
    asyncio.run(main())
