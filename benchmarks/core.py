"""Measure the replay core alone: no database, no host loop, no activity bodies.

Microseconds per activity, live and replayed (encoding of arguments and decoding of results included), bytes per
parked run, and what it costs to evict and to wake one. Medians of five.

    python benchmarks/core.py
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

from romancy import Channel, activity, workflow
from romancy.core.codec import JsonCodec
from romancy.core.commands import RunActivity
from romancy.core.events import ActivityCompleted, Event, MessageReceived
from romancy.replay.execution import Execution

if TYPE_CHECKING:
    from collections.abc import Callable

    from romancy.core.definitions import Workflow
    from romancy.core.events import Release
    from romancy.replay.execution import Turn

T0 = 1_700_000_000_000_000
CODEC = JsonCodec()
BODY = b'{"message_id":"m","at":0,"body":1}'
signals = Channel("signals", int)


@activity
async def step(number: int) -> int:
    return number


@workflow
async def sequential(count: int) -> None:
    for number in range(count):
        await step(number)


@workflow
async def gathered(count: int) -> None:
    await asyncio.gather(*(step(number) for number in range(count)))


@workflow
async def timed(count: int) -> None:
    for number in range(count):
        async with asyncio.timeout(5):
            await step(number)


@workflow
async def waited(count: int) -> None:
    for number in range(count):
        await asyncio.wait_for(step(number), 5)


@workflow
async def spawned(count: int) -> None:
    for number in range(count):
        await asyncio.create_task(step(number))


@workflow
async def receiving(count: int) -> int:
    return count + await signals.receive()


@workflow
async def receiving_in_time(count: int) -> int:
    async with asyncio.timeout(9):
        return count + await signals.receive()


@workflow
async def receiving_in_three_tasks(count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3 + count):
            group.create_task(signals.receive())


def begin(flow: Workflow[[int], object], count: int = 0, number: int = 0) -> Execution:
    return Execution(flow, b'{"count":%d}' % count, codec=CODEC, execution_id=number)


def results(turn: Turn) -> list[Release]:
    return [
        ActivityCompleted(command.activity_id, b"1") for command in turn.commands if isinstance(command, RunActivity)
    ]


def live(flow: Workflow[[int], object], runs: int, count: int) -> float:
    """Return microseconds per activity of interleaved runs."""
    executions = [begin(flow, count, number) for number in range(runs)]
    started = time.perf_counter()
    turns = [(execution, execution.activate(stamp=T0)) for execution in executions]
    stamp, done = T0, 0
    while turns:
        following = []
        for execution, turn in turns:
            stamp += 1
            batch = results(turn)
            done += len(batch)
            after = execution.activate(batch, stamp=stamp)
            if after.closing is None:
                following.append((execution, after))
        turns = following
    return (time.perf_counter() - started) / done * 1e6


def history(flow: Workflow[[int], object], count: int) -> list[Event]:
    execution = begin(flow, count)
    turn = execution.activate(stamp=T0)
    events: list[Event] = []
    while turn.closing is None:
        turn = execution.activate(results(turn), stamp=turn.stamp + 1)
        events += [Event(len(events) + i, turn.number, turn.stamp, *note) for i, note in enumerate(turn.notes)]
    return [event for event in events if event.kind < 20]


def replayed(flow: Workflow[[int], object], events: list[Event], count: int) -> float:
    """Return seconds of one replay."""
    execution = begin(flow, count)
    started = time.perf_counter()
    execution.replay(events, drained_seq=len(events), started_at=T0)
    return time.perf_counter() - started


def parked(flow: Workflow[[int], object], runs: int) -> list[Execution]:
    executions = [begin(flow, 0, number) for number in range(runs)]
    for execution in executions:
        execution.activate(stamp=T0)
    return executions


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def traced_bytes(flow: Workflow[[int], object], runs: int) -> float:
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    executions = parked(flow, runs)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for execution in executions:
        execution.suspend()
    return used / runs


def each(work: Callable[[Execution], object], executions: list[Execution]) -> float:
    """Return microseconds per execution of some work."""
    started = time.perf_counter()
    for execution in executions:
        work(execution)
    return (time.perf_counter() - started) / len(executions) * 1e6


def median(measure: Callable[[], float], times: int = 5) -> float:
    return statistics.median(measure() for _ in range(times))


def main() -> None:
    traced_bytes(receiving, 100)
    before = resident_bytes()
    kept = parked(receiving_in_time, 10_000)
    print(f"resident bytes of a parked run (receive, timeout)  {(resident_bytes() - before) / 10_000:8,.0f}")
    message = MessageReceived("signals", BODY)
    woken = each(lambda execution: execution.activate([message], stamp=T0 + 5), kept[:5_000])
    print(f"hot wake to completion, us                         {woken:8.1f}")
    del kept
    gc.collect()
    print(f"live, 10 sequential x 200 interleaved, us/activity {median(lambda: live(sequential, 200, 10)):8.2f}")
    print(f"live, gather of 100 x 20, us/activity              {median(lambda: live(gathered, 20, 100)):8.2f}")
    for count in (100, 1_000, 5_000, 20_000):
        events = history(sequential, count)
        cost = median(lambda events=events, count=count: replayed(sequential, events, count))  # type: ignore[misc]
        print(f"replay of {count:6,} activities, us/activity         {cost / count * 1e6:8.2f}  ({cost * 1e3:.1f} ms)")
    for flow in (timed, waited, spawned):
        events = history(flow, 5_000)
        cost = median(lambda flow=flow, events=events: replayed(flow, events, 5_000))  # type: ignore[misc]
        print(f"replay of  5,000, each {flow.name:12}, us/activity  {cost / 5_000 * 1e6:8.2f}")
    for flow in (receiving, receiving_in_time, receiving_in_three_tasks):
        print(f"traced bytes of a parked {flow.name:24}  {traced_bytes(flow, 2_000):8,.0f}")
        evicted = median(lambda flow=flow: each(Execution.suspend, parked(flow, 1_000)))  # type: ignore[misc]
        print(f"   evict, us                                       {evicted:8.1f}")


if __name__ == "__main__":
    main()
