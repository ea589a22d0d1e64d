"""A saga: when the last activity of an order fails, the first ones are undone, last one first.

Run it: python examples/order_saga.py
"""

from __future__ import annotations

import asyncio

from romancy import App, NonRetryableError, WorkflowFailedError, activity, workflow


@activity
async def reserve(item: str) -> str:
    print(f"reserve a {item}")
    return f"reservation of a {item}"


@reserve.compensation
async def release(reservation: str, item: str) -> None:
    print(f"release the {reservation}: the {item} is on sale again")


@activity
async def charge(item: str, price: int) -> int:
    print(f"charge {price} for a {item}")
    return price


@charge.compensation
async def refund(paid: int, item: str, price: int) -> None:
    print(f"refund {paid} of {price} for a {item}")


@activity
async def ship(item: str) -> str:
    if item == "piano":
        raise NonRetryableError("no carrier takes a piano")
    return f"a {item} is on its way"


@workflow
async def fulfil(item: str, price: int) -> str:
    await reserve(item)
    await charge(item, price)
    return await ship(item)


async def main() -> None:
    async with App("sqlite://") as app:  # in memory; "sqlite:///orders.db" is a file
        print(await app.run(fulfil("flute", 300)))
        try:
            await app.run(fulfil("piano", 9000), id="order-2")
        except WorkflowFailedError as error:
            print(error)


if __name__ == "__main__":
    asyncio.run(main())
