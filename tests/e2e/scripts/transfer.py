"""Move money by transactional activities; die by SIGKILL at the n-th of their commits, if told to: FILE HOT COUNT.

DIE_AT says at which commit, and DIE_WHEN at which of its moments: ``begun``, ``written`` or ``committed``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any, cast

from romancy import App, activity, activity_info, connection, workflow
from romancy.storage.sqlite_transaction import SqliteTransaction

PRICE = 7


@activity(transactional=True)
async def transfer_open() -> None:
    db = connection()
    await db.execute("CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL)")
    await db.execute("CREATE TABLE moves (operation TEXT, amount INTEGER)")
    await db.executemany("INSERT INTO accounts VALUES (?, ?)", [("payer", 1_000), ("shop", 0)])


@activity(transactional=True)
async def transfer_move(amount: int) -> int:
    db = connection()
    await db.execute("INSERT INTO moves VALUES (?, ?)", (activity_info().idempotency_key, amount))
    await db.execute("UPDATE accounts SET balance = balance - ? WHERE name = 'payer'", (amount,))
    await db.execute("UPDATE accounts SET balance = balance + ? WHERE name = 'shop'", (amount,))
    found = await db.fetch_one("SELECT balance FROM accounts WHERE name = 'shop'")
    assert found is not None
    balance: int = found[0]
    return balance


@workflow
async def transfer_prepare() -> None:
    await transfer_open()


@workflow
async def transfer_pay(count: int) -> list[int]:
    return [await transfer_move(PRICE) for _ in range(count)]


def die_at(number: int, moment: str) -> None:
    """Have the n-th commit of an activity be the last thing that this process does."""
    count = 0
    commit, confirm = SqliteTransaction._commit, SqliteTransaction._confirm

    def counted(self: Any, *args: Any) -> Any:
        nonlocal count
        count += 1
        if count == number and moment == "begun":
            os.kill(os.getpid(), signal.SIGKILL)
        return commit(self, *args)

    def confirmed(self: Any, *args: Any) -> Any:
        if count == number and moment == "written":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = confirm(self, *args)
        if count == number and moment == "committed":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    patched = cast("Any", SqliteTransaction)
    patched._commit, patched._confirm = counted, confirmed


async def main(database: str, hot_limit: int, count: int) -> None:
    async with App(database, hot_limit=hot_limit) as app:
        await (await app.start(transfer_prepare(), id="prepare", on_conflict="attach")).result()
        handles = [await app.start(transfer_pay(3), id=f"{n}", on_conflict="attach") for n in range(count)]
        print(sorted([balance for handle in handles for balance in await handle.result()]), flush=True)


if __name__ == "__main__":
    if (fatal := int(os.environ.get("DIE_AT", "0"))) > 0:
        die_at(fatal, os.environ["DIE_WHEN"])
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
