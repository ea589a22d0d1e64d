"""What is under way when the database goes away."""

from __future__ import annotations

from collections import Counter

from romancy import Channel, activity, sleep, workflow

done: Counter[str] = Counter()
letters = Channel("outage_letters", str)


@activity
async def outage_step(name: str, number: int) -> int:
    done[f"{name}/{number}"] += 1
    return number


@workflow
async def outage_steps(name: str, steps: int) -> int:
    """Do some activities, with short timers between them."""
    total = 0
    for number in range(steps):
        total += await outage_step(name, number)
        await sleep(0.01)
    return total


@workflow
async def outage_wait() -> str:
    return await letters.receive()
