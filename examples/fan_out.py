"""Fan out: many activities at once, gathered in order, or taken in the order in which they end.

Run it: python examples/fan_out.py
"""

from __future__ import annotations

import asyncio

from romancy import App, activity, as_completed, workflow

PAGES = {"a": "to be or not to be", "b": "once upon a time", "c": "call me"}


@activity
async def count_words(page: str) -> int:
    await asyncio.sleep(0.05 * len(PAGES[page].split()))  # the shorter, the sooner
    return len(PAGES[page].split())


@workflow
async def count_all(pages: list[str]) -> int:
    counts = await asyncio.gather(*(count_words(page) for page in pages))
    return sum(counts)


@workflow
async def rank(pages: list[str]) -> list[int]:
    # asyncio.as_completed would not yield the same order at a replay; romancy's does.
    return [await count for count in as_completed([count_words(page) for page in pages])]


@workflow
async def at_most_two_at_once(pages: list[str]) -> int:
    limit = asyncio.Semaphore(2)  # plain asyncio works in a workflow

    async def limited(page: str) -> int:
        async with limit:
            return await count_words(page)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(limited(page)) for page in pages]
    return max(task.result() for task in tasks)


async def main() -> None:
    async with App("sqlite://") as app:
        print("words:", await app.run(count_all(list(PAGES))))
        print("as they ended:", await app.run(rank(list(PAGES))))
        print("longest page:", await app.run(at_most_two_at_once(list(PAGES))))


if __name__ == "__main__":
    asyncio.run(main())
