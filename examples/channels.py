"""Two ways to hand out what is published: to everybody who listens, or each piece of work to one of the workers.

Run it: python examples/channels.py
"""

from __future__ import annotations

import asyncio

from romancy import App, Channel, activity, set_custom_status, workflow

prices = Channel("prices", float)
jobs = Channel("jobs", str)
resized: list[str] = []


@workflow
async def watch_prices(limit: float) -> str:
    async with prices.subscribe() as subscription:  # broadcast: every subscriber gets every message
        set_custom_status("listens")
        async for price in subscription:
            if price > limit:
                return f"{price} is above {limit}"
    return "never"


@activity
async def resize(picture: str) -> None:
    resized.append(picture)
    await asyncio.sleep(0.01)


@workflow
async def resizer() -> int:
    done = 0
    async with jobs.subscribe(mode="competing") as subscription:  # each message goes to one of them
        set_custom_status("listens")
        while (picture := await subscription.receive()) != "stop":
            await resize(picture)
            done += 1
    return done


async def main() -> None:
    async with App("sqlite://") as app:
        watchers = [await app.start(watch_prices(limit)) for limit in (10.0, 20.0)]
        resizers = [await app.start(resizer()) for _ in range(3)]
        for handle in (*watchers, *resizers):
            async for info in handle.watch():
                if info.custom_status == "listens":
                    break
        for price in (5.0, 15.0, 25.0):
            await app.publish(prices, price)
        for picture in ("ape", "bee", "cat", "dog", "elk", "fox"):
            await app.publish(jobs, picture)
        for _ in resizers:
            await app.publish(jobs, "stop")
        print([await handle.result() for handle in watchers])
        done = [await handle.result() for handle in resizers]
        print(sum(done), "pictures by", len(done), "workers:", sorted(resized))


if __name__ == "__main__":
    asyncio.run(main())
