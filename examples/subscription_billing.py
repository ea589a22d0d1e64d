"""Bill a subscription every month, under a clock that the program moves: a year passes in a second.

Run it: python examples/subscription_billing.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from romancy import App, Channel, activity, recur, set_custom_status, sleep, workflow
from romancy.testing.clock import ShiftedClock

MONTH = timedelta(days=30)
cancellations = Channel("cancellations", str)
receipts: list[str] = []


@activity
async def charge(customer: str, month: int) -> str:
    receipts.append(f"month {month}: {customer} has paid")
    return receipts[-1]


@activity
async def say_goodbye(customer: str, reason: str) -> str:
    return f"goodbye {customer}: {reason}"


@workflow
async def subscription(customer: str, month: int = 1) -> str:
    await charge(customer, month)
    set_custom_status({"paid": month})
    await sleep(MONTH)
    reason = cancellations.try_receive()
    if reason is not None:
        return await say_goodbye(customer, reason)
    return recur(subscription(customer, month + 1))  # every month a fresh history, for years


async def main() -> None:
    clock = ShiftedClock()
    # The clock is the sessions' too: this one must outlive the months.
    settings = {"session_ttl": timedelta(days=3650), "poll_interval": timedelta(milliseconds=10)}
    async with App("sqlite://", clock=clock, hot_limit=0, **settings) as app:
        handle = await app.start(subscription("Ada"), id="subscription-ada")
        for month in range(1, 13):
            async for info in handle.watch():
                if info.custom_status == {"paid": month}:  # and asleep: one commit has written both
                    break
            if month == 12:
                await app.send(cancellations, "she has moved to the country", to=handle.id)
            clock.advance(MONTH.total_seconds())
        print(await handle.result())
        print(len(receipts), "receipts, the last of them:", receipts[-1])
        print("runs:", (await handle.info()).run + 1)


if __name__ == "__main__":
    asyncio.run(main())
