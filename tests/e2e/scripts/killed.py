"""Work through orders until they have ended; die by SIGKILL at the n-th commit, if told to.

Every body appends to a ledger, before and after its effect; what is recorded is in the database.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from romancy import App, Channel, Handle, WorkflowFailedError, activity, activity_info, workflow
from romancy.storage import sqlite_plain
from romancy.storage.sqlite import SqliteStorage
from romancy.storage.sqlite_tx import SqliteTx

approvals = Channel("killed_approvals", str)
parcels = Channel("killed_parcels", str)
ledger = -1


def act(effect: str) -> str:
    """Append an effect to the ledger by one write."""
    info = activity_info()
    os.write(ledger, f"{info.idempotency_key} {effect}\n".encode())
    return effect


@activity
async def killed_reserve(order: int) -> str:
    return act(f"reserve-{order}")


@killed_reserve.compensation
async def killed_release(reservation: str, order: int) -> None:
    act(f"release-{order}")


@activity
def killed_label(order: int) -> str:
    return act(f"label-{order}")


@activity
async def killed_charge(order: int) -> str:
    await asyncio.sleep(0.002)
    return act(f"charge-{order}")


@workflow
async def killed_order(order: int) -> list[str]:
    reservation = await killed_reserve(order)
    label, payment = await asyncio.gather(killed_label(order), killed_charge(order))
    approval = await approvals.receive()
    await asyncio.sleep(0.002)
    await parcels.send(f"parcel-{order}", to="depot")
    if order % 3 == 2:
        raise ValueError(f"order {order} is rejected")
    return [reservation, label, payment, approval]


@workflow
async def killed_depot(count: int) -> list[str]:
    return sorted([await parcels.receive() for _ in range(count)])


def die_at_commit(number: int, *, is_before: bool) -> None:
    """Have the n-th batch of entries be the last thing that this process does."""
    inner, count = sqlite_plain.commit, 0

    async def commit(tx: SqliteTx, session: int, entries: Sequence[Any]) -> Any:
        nonlocal count
        count += 1
        if count == number and is_before:
            os.kill(os.getpid(), signal.SIGKILL)
        answers = await inner(tx, session, entries)
        if count == number:
            tx.connection.execute("COMMIT")
            os.kill(os.getpid(), signal.SIGKILL)
        return answers

    sqlite_plain.commit = commit


async def main(database: str, hot_limit: int, count: int) -> None:
    storage = SqliteStorage(database)
    async with App(storage, hot_limit=hot_limit) as app:
        handles: dict[str, Handle[list[str]]] = {
            "depot": await app.start(killed_depot(count), id="depot", on_conflict="attach")
        }
        for n in range(count):
            handle = await app.start(killed_order(n), id=f"{n}", on_conflict="attach")
            await app.send(approvals, "granted", to=f"{n}", message_id="only")
            handles[f"{n}"] = handle
        print("started", flush=True)
        for id, handle in handles.items():
            try:
                print(id, await handle.result(), flush=True)
            except WorkflowFailedError as exc:
                print(id, exc, flush=True)


if __name__ == "__main__":
    ledger = os.open(Path(sys.argv[4]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if (fatal := int(os.environ.get("DIE_AT_COMMIT", "0"))) > 0:
        die_at_commit(fatal, is_before="DIE_BEFORE" in os.environ)
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
