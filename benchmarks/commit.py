"""Commit entries of one event each, in batches of several sizes, to a SQLite file with ``synchronous=FULL``.

Prints entries per second, by what a batch consists of: "advance" is the common entry, "decided" has the same
entries take the path that reads first, "park" and "close" are what their names say.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from unittest import mock

import msgspec

from romancy.core.events import EventKind, Note
from romancy.core.records import LEAVE, Accepted, Entry, NewInstance, SessionInfo, Status
from romancy.storage import sqlite_plain
from romancy.storage.sqlite import SqliteStorage

SECONDS = 1.5
ENTRIES_PER_RUN = 10
PAYLOAD = b'{"ok":true,"i":5,"arg":{"n":5}}'
DEFINITION = ("order", "1")

numbers = itertools.count(1)


async def claimed(storage: SqliteStorage, session: int, count: int) -> list[Entry]:
    """Start instances, claim them, and return each one's first entry."""
    now = time.time_ns() // 1000
    await asyncio.gather(
        *(
            storage.create(NewInstance(f"order-{n:036}", n, *DEFINITION, b'{"n":10}', now))
            for n in itertools.islice(numbers, count)
        )
    )
    found = await storage.claim(session, [DEFINITION], "bench", limit=count)
    if len(found.claims) != count:
        raise RuntimeError(f"{len(found.claims)} of {count} instances were claimed")
    return [
        Entry(
            key=claim.instance.key,
            execution_id=claim.instance.execution_id,
            run=claim.instance.run,
            seq=0,
            turn=1,
            stamp=now,
            notes=[Note(EventKind.ACTIVITY_COMPLETED, "1:charge", PAYLOAD)],
            consumed=[],
            requests=[],
            status=Status.RUNNING,
            wake_at=LEAVE,
            inbox_seen=claim.instance.inbox_seen,
        )
        for claim in found.claims
    ]


async def nothing_of(*_: object) -> list[Entry]:
    return []


def shaped(entry: Entry, kind: str, seq: int) -> Entry:
    entry = msgspec.structs.replace(entry, seq=seq, turn=seq + 1)
    match kind:
        case "park":
            return msgspec.structs.replace(entry, wake_at=entry.stamp + 60_000_000, waiting_on=b'["timer"]')
        case "close" if seq == ENTRIES_PER_RUN - 1:
            return msgspec.structs.replace(entry, status=Status.COMPLETED, wake_at=None)
        case _:
            return entry


async def measure(kind: str, size: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        storage = SqliteStorage(Path(folder) / "bench.db")
        await storage.open()
        session = await storage.open_session(SessionInfo("bench", [DEFINITION]), timedelta(hours=1))
        latencies: list[float] = []
        cpu = 0.0
        while sum(latencies) < SECONDS:
            first = await claimed(storage, session, size)
            for seq in range(ENTRIES_PER_RUN):
                entries = [shaped(entry, kind, seq) for entry in first]
                began, cpu_began = time.perf_counter(), time.process_time()
                answers = await storage.commit(session, entries)
                latencies.append(time.perf_counter() - began)
                cpu += time.process_time() - cpu_began
                if not all(isinstance(answer, Accepted) for answer in answers):
                    raise RuntimeError("an entry was not accepted")
        await storage.close()
    count = len(latencies) * size
    latencies.sort()
    p50 = latencies[len(latencies) // 2] * 1e3
    rate = count / sum(latencies)
    return f"{kind:8} {size:5} {rate:9.0f} entries/s   p50 {p50:6.2f} ms   {cpu / count * 1e6:5.1f} µs CPU each"


async def main() -> None:
    for kind in ("advance", "decided", "park", "close"):
        for size in (1, 50, 200, 1000):
            plain_of = nothing_of if kind == "decided" else sqlite_plain.plain_of
            with mock.patch.object(sqlite_plain, "plain_of", plain_of):
                print(await measure(kind, size), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
