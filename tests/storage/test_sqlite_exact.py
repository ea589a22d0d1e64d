"""What SQLite does to the microsecond or to the byte, and the conformance suite leaves open."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta

import pytest

from romancy.core.clock import ManualClock
from romancy.core.records import Accepted, Claims, Refused, SessionInfo
from romancy.errors import SessionLostError, StorageError
from romancy.storage.sqlite import SqliteStorage
from romancy.testing.storage_suite.making import TTL, Worker, note, post
from romancy.testing.storage_suite.transactions import Body

pytestmark = pytest.mark.anyio


async def test_time_to_live_is_exact(storage: SqliteStorage, clock: ManualClock) -> None:
    ttl = timedelta(seconds=1, microseconds=1)
    session = await storage.open_session(SessionInfo("b", []), ttl)
    clock.advance(1)
    await storage.renew_session(session, ttl)
    clock.advance(1.000001)
    with pytest.raises(SessionLostError):
        await storage.renew_session(session, ttl)


async def test_session_is_reaped_at_the_instant_at_which_it_expires(
    worker: Worker, storage: SqliteStorage, clock: ManualClock
) -> None:
    await worker.own()
    clock.advance(TTL.total_seconds() - 0.000001)
    assert await storage.reap_sessions() == 0
    clock.advance(0.000001)
    assert await storage.reap_sessions() == 1


async def test_claim_takes_what_is_due_at_this_instant(worker: Worker, clock: ManualClock) -> None:
    created = await worker.create(wake_at=clock.now() + 1)
    assert await worker.claim() == Claims([], created.wake_at)
    clock.advance(0.000001)
    assert len(await worker.claim_all()) == 1


async def test_post_makes_an_instance_due_at_its_own_instant(worker: Worker, storage: SqliteStorage) -> None:
    await worker.advance(await worker.own("x"), wake_at=None)
    await storage.post([post("x")])
    assert (await worker.read("x")).wake_at == worker.clock.now()


async def test_ids_are_forgotten_at_the_instant_at_which_they_have_been_kept(
    worker: Worker, storage: SqliteStorage, clock: ManualClock
) -> None:
    await worker.own("x")
    await storage.post([post("x")])
    kept = timedelta(seconds=5)
    clock.advance(4.999999)
    assert await storage.prune(archives=None, deliveries=kept, limit=9) == 0
    clock.advance(0.000001)
    assert await storage.prune(archives=None, deliveries=kept, limit=9) == 1


async def test_commit_refuses_a_payload_that_is_too_big_alone(worker: Worker, storage: SqliteStorage) -> None:
    limit = 100_000
    await storage._writer.read(lambda c: c.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limit))
    small, big = await worker.own(), await worker.own()
    answers = await worker.commit(worker.entry(small, note()), worker.entry(big, note(payload=bytes(limit))))
    assert answers == [Accepted([]), Refused("DataError: string or blob too big")]
    assert (await worker.read(small.id)).next_seq == 1


async def test_calls_of_other_tasks_wait_until_a_transaction_is_over(worker: Worker, storage: SqliteStorage) -> None:
    transaction = await Body(storage).open()
    creating = asyncio.create_task(worker.create("other"))
    await transaction.execute("SELECT 1", ())  # by then the writer would have come to it, had it not been held
    await transaction.execute("SELECT 1", ())
    assert not creating.done()
    await transaction.rollback()
    assert (await creating).id == "other"


async def test_transaction_that_was_open_for_too_long_says_so(storage: SqliteStorage) -> None:
    transaction = await Body(storage).open(timedelta(milliseconds=20))
    error = await transaction.ended
    assert "longer than 0.02 s" in str(error)
    with pytest.raises(StorageError, match="longer than"):
        await transaction.execute("SELECT 1", ())
