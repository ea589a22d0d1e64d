"""A worker whose session is lost leaves nothing, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from romancy import App, activity, workflow
from romancy.storage.protocol import Storage
from romancy.worker import session

from .conftest import MakeApp
from .faults import OffsetClock, StallingStorage, StorageProxy
from .processes import Process, running
from .scripts import stale

pytestmark = pytest.mark.anyio

_SOON = timedelta(milliseconds=20)

starts: Counter[str] = Counter()
owners: list[Callable[[], int | None]] = []
begun = asyncio.Event()
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    global begun, may_end
    begun, may_end = asyncio.Event(), asyncio.Event()
    starts.clear()


@activity
async def session_first(what: str) -> str:
    starts[f"first {what}"] += 1
    return f"first {what}"


@activity
async def session_slow(what: str) -> str:
    starts[what] += 1
    begun.set()
    await may_end.wait()
    return what


@workflow
async def session_work(what: str) -> list[str]:
    return [await session_first(what), await session_slow(what)]


async def test_session_declared_dead_commits_nothing_and_its_worker_goes_on(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    async with make_app(StorageProxy(shared).storage, clock=clock, poll_interval=_SOON) as app:
        handle = await app.start(session_work("tea"), id="tea")
        await begun.wait()
        begun.clear()
        worker = app.worker
        assert worker is not None
        old = worker._session.id
        clock.advance(60)
        await shared.reap_sessions()
        may_end.set()
        assert await handle.result() == ["first tea", "tea"]
        assert worker._session.id not in {None, old}
        history = await handle.history()
    assert starts == {"first tea": 1, "tea": 2}
    assert [event.kind for event in history] == ["activity_completed", "activity_completed", "run_completed"]


async def test_session_of_a_stalled_worker_leaves_nothing_after_ownership_has_moved(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    stalled = StallingStorage(shared)
    async with make_app(stalled.storage, clock=clock, poll_interval=_SOON) as first:
        await first.start(session_work("tea"), id="tea")
        await begun.wait()
        stalled.stall()
        clock.advance(60)
        async with make_app(StorageProxy(shared).storage, clock=clock, poll_interval=_SOON) as second:
            handle = await second.get("tea")
            may_end.set()
            assert await handle.result() == ["first tea", "tea"]
            history = await handle.history()
        stalled.go_on()
        assert await first.run(session_work("coffee"), id="coffee") == ["first coffee", "coffee"]
        assert await (await first.get("tea")).history() == history
    assert starts == {"first tea": 1, "tea": 2, "first coffee": 1, "coffee": 1}


class _LateClaims(StorageProxy):
    """Hold back the claims of one session only."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.session: int | None = None
        self.is_held = asyncio.Event()
        self.goes = asyncio.Event()

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Pass a call on when it is time to."""
        if name == "claim" and args[0] == self.session:
            self.is_held.set()
            await self.goes.wait()
        return await super().call(name, *args, **kwargs)


async def test_session_opened_after_a_loss_lives_though_a_late_call_reports_that_loss(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    late = _LateClaims(shared)
    async with make_app(late.storage, clock=clock, poll_interval=_SOON, session_ttl=timedelta(seconds=1)) as app:
        worker = app.worker
        assert worker is not None
        old = worker._session.id
        late.session = old
        await late.is_held.wait()
        clock.advance(60)
        await shared.reap_sessions()
        while worker._session.id in {None, old}:
            await asyncio.sleep(0.01)
        second = worker._session.id
        handle = await app.start(session_work("coffee"), id="coffee")
        await begun.wait()
        late.goes.set()
        await asyncio.sleep(0.1)
        may_end.set()
        assert await handle.result() == ["first coffee", "coffee"]
        assert worker._session.id == second
    assert starts == {"first coffee": 1, "coffee": 1}


async def test_session_that_can_not_be_renewed_is_given_up_while_its_bodies_run(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    async with make_app(
        StorageProxy(shared).storage, clock=clock, poll_interval=_SOON, session_ttl=timedelta(seconds=1)
    ) as app:
        handle = await app.start(session_work("tea"), id="tea")
        await begun.wait()
        begun.clear()
        clock.advance(60)
        # Nothing is committed meanwhile: it is the renewal that finds out.
        await begun.wait()
        may_end.set()
        assert await handle.result() == ["first tea", "tea"]
        assert (await handle.info()).recoveries == 0
    assert starts == {"first tea": 1, "tea": 2}


@activity
async def session_late() -> int | None:
    starts["late"] += 1
    return owners.pop()()


@workflow
async def session_crowd() -> list[Any]:
    return [*await asyncio.gather(session_slow("tea"), session_late())]


async def test_process_that_wakes_after_its_session_s_life_begins_no_body(
    shared: Storage, clock: OffsetClock, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has taken over may have done already what waited here for its turn."""
    slept = 0.0
    lease_clock = session.lease_clock
    monkeypatch.setattr(session, "lease_clock", lambda: lease_clock() + slept)
    async with make_app(StorageProxy(shared).storage, clock=clock, poll_interval=_SOON, max_activities=1) as app:
        worker = app.worker
        assert worker is not None
        old = worker._session.id
        owners.append(lambda: worker._session.id)
        handle = await app.start(session_crowd(), id="crowd")
        await begun.wait()
        slept = 60.0
        clock.advance(60)
        may_end.set()
        result = await handle.result()
        assert result == ["tea", worker._session.id]
        assert worker._session.id != old
    assert starts["late"] == 1


async def _stop_outside_of_transactions(process: Process, file: Path) -> None:
    """Stop a process where it holds no lock: one that is stopped inside a commit rightly keeps all others waiting."""
    while True:
        process.signal(signal.SIGSTOP)
        with contextlib.closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as probe:
            try:
                probe.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                process.signal(signal.SIGCONT)
                await asyncio.sleep(0.005)
            else:
                probe.execute("ROLLBACK")
                return


async def test_session_of_a_stopped_process_leaves_nothing_when_it_goes_on(
    database: str, tmp_path: Path, hot_limit: int
) -> None:
    ttl = timedelta(seconds=1)
    gate = tmp_path / "gate"
    async with running("stale.py", database, hot_limit, gate) as process:
        await process.expect("body of one, pid first")
        await _stop_outside_of_transactions(process, tmp_path / "test.db")
        stale.gate, stale.who = gate, "second"
        gate.touch()
        async with App(database, workflows=[stale.wait_for_gate], session_ttl=ttl, hot_limit=hot_limit) as app:
            handle = await app.get("one")
            assert await handle.result() == "one by second"
            history = await handle.history()
        process.signal(signal.SIGCONT)
        async with App(database, worker=False) as client:
            assert await client.run(stale.wait_for_gate("two"), id="two") == "two by first"
            assert await (await client.get("one")).history() == history
        process.signal(signal.SIGTERM)
        assert await process.end() == 0, process.errors
