"""Workflows of every kind, whose outcomes can be told beforehand, and a ledger of what their activities have done."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from romancy import Channel, RetryPolicy, activity, activity_info, connection, recur, sleep, start_child, workflow
from romancy.core.calls import Call

LEDGER = "ROMANCY_CHAOS_LEDGER"
PARAMETERS = "ROMANCY_CHAOS_PARAMETERS"
AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=5), max_attempts=100)
letters = Channel("chaos_letters", int)


def enter(what: str) -> None:
    """Append a line to the ledger, by one write: what has begun, for which operation, and when."""
    info = activity_info()
    line = f"{time.time_ns() // 1000} {info.instance_id} {info.idempotency_key} {info.activity_id} {what}\n"
    file = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


@activity(retry=AT_ONCE)
async def chaos_step(run: int, number: int) -> int:
    """Fail at first, now and then."""
    enter("step")
    if (run + number) % 5 == 0 and activity_info().attempt == 1:
        raise ConnectionError("not yet")
    await asyncio.sleep(0.005)
    return run * number


@chaos_step.compensation(retry=AT_ONCE)
async def chaos_undo(result: int, run: int, number: int) -> None:
    del result, run, number
    enter("undo")


@activity(retry=RetryPolicy.none())
async def chaos_refuse(run: int) -> int:
    enter("refuse")
    raise ValueError(f"order {run} is refused")


@activity(transactional=True, retry=AT_ONCE)
async def chaos_book(run: int, number: int) -> int:
    """Write a row that no constraint keeps from being there twice."""
    marks = os.environ[PARAMETERS]
    await connection().execute(f"INSERT INTO chaos_rows (run, number) VALUES ({marks})", (run, number))
    return number


@workflow(name="chaos_gather")
async def gather_steps(run: int) -> int:
    await sleep(0.05)
    found = await asyncio.gather(*(chaos_step(run, number) for number in range(4)))
    await sleep(0.02)
    return sum(found) + await chaos_step(run, 4)


@workflow(name="chaos_messages")
async def messages(run: int) -> int:
    """Take what is sent from outside, and what the instance sends to itself by way of its inbox."""
    total = 0
    for _ in range(2):
        total += await letters.receive()
        total += await chaos_step(run, 1)
    await letters.send(100, to=f"chaos-{run}")
    return total + await letters.receive()


@workflow(name="chaos_child")
async def child(run: int, number: int) -> int:
    await sleep(0.01)
    return await chaos_step(run, number)


@workflow(name="chaos_parent")
async def parent(run: int) -> int:
    handles = [await start_child(child(run, number), id=f"chaos-{run}/{number}") for number in (1, 2)]
    return sum([await handle for handle in handles])


@workflow(name="chaos_rounds")
async def rounds(run: int, total: int, left: int) -> int:
    total += await chaos_step(run, left)
    if left:
        recur(rounds(run, total, left - 1))
    return total


@workflow(name="chaos_saga")
async def saga(run: int) -> int:
    await chaos_step(run, 1)
    await chaos_step(run, 2)
    return await chaos_refuse(run)


@workflow(name="chaos_books")
async def books(run: int) -> int:
    return sum([await chaos_book(run, number) for number in range(3)])


ALL = (gather_steps, messages, parent, child, rounds, saga, books)


def call_of(run: int) -> Call[Any]:
    """Return the workflow call of a run."""
    kinds: list[Callable[[], Call[Any]]] = [
        lambda: gather_steps(run),
        lambda: messages(run),
        lambda: parent(run),
        lambda: rounds(run, 0, 3),
        lambda: saga(run),
        lambda: books(run),
    ]
    return kinds[run % len(kinds)]()


def messages_for(run: int) -> int:
    """Return how many messages a run is to be sent from outside; each says 10."""
    return 2 if run % 6 == 1 else 0


def outcome_of(run: int) -> int | None:
    """Return what a run comes to undisturbed; None: it fails."""
    return [10 * run, 20 + 2 * run + 100, 3 * run, 6 * run, None, 3][run % 6]


def steps_of(run: int) -> int:
    """Return how many operations of a run enter something into the ledger."""
    return [5, 2, 2, 4, 5, 0][run % 6]
