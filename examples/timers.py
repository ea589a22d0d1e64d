"""Durable timers: a sleep that outlives the process which began it, and a deadline around work.

Run it: python examples/timers.py
"""

from __future__ import annotations

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path

from romancy import App, activity, now, sleep, sleep_until, workflow


@activity
async def remind(whom: str) -> str:
    return f"{whom} was reminded"


@activity
async def ask_the_oracle(question: str) -> str:
    await asyncio.sleep(30)
    return f"{question} 42"


@workflow
async def reminder(whom: str, delay: float) -> str:
    await sleep(timedelta(seconds=delay))
    await sleep_until(now() + timedelta(milliseconds=50))
    return await remind(whom)


@workflow
async def impatient(question: str) -> str:
    try:
        async with asyncio.timeout(0.2):
            return await ask_the_oracle(question)
    except TimeoutError:
        return "no answer in time"


async def main(database: str) -> None:
    async with App(database) as app:
        await app.start(reminder("Olga", 0.4), id="reminder")
        await asyncio.sleep(0.1)
    print("asleep, and no process runs")
    await asyncio.sleep(0.5)  # the sleep is over before the next process comes
    async with App(database) as app:
        print(await (await app.get("reminder")).result())
        print(await app.run(impatient("Why?")))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(f"sqlite:///{Path(directory) / 'timers.db'}"))
