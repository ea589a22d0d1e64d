"""A transactional activity: its SQL and its result are one write, so that money moves exactly once.

Run it: python examples/transactional_activity.py
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from romancy import App, activity, activity_info, connection, workflow


@activity(transactional=True)
async def open_accounts() -> None:
    db = connection()
    await db.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL)")
    await db.executemany("INSERT INTO accounts VALUES (?, ?)", [("Ada", 100), ("Bo", 0)])


@activity(transactional=True)
async def move(amount: int, source: str, target: str) -> int:
    db = connection()
    await db.execute("UPDATE accounts SET balance = balance - ? WHERE name = ?", (amount, source))
    if activity_info().attempt == 1:
        raise ConnectionError("the lights went out between the two halves")  # undone: it is tried again
    found = await db.execute(
        "UPDATE accounts SET balance = balance + ? WHERE name = ? RETURNING balance", (amount, target)
    )
    return int(found.rows[0][0])


@activity(transactional=True)
async def balances() -> dict[str, int]:
    return dict(await connection().fetch_all("SELECT name, balance FROM accounts ORDER BY name"))


@workflow
async def pay(amount: int) -> list[object]:
    await open_accounts()
    return [await move(amount, "Ada", "Bo"), await balances()]


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with App(f"sqlite:///{Path(folder) / 'bank.db'}") as app:
            handle = await app.start(pay(30), id="rent")
            print("Bo now has", *await handle.result())
            print("attempts at moving:", sum("move" in (event.activity_id or "") for event in await handle.history()))


if __name__ == "__main__":
    asyncio.run(main())
