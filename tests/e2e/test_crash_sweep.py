"""Every storage call of a run fails in turn; the run ends as if none had."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Self

import pytest

from romancy import App, StorageError
from romancy.storage.protocol import Storage
from romancy.storage.sqlite import SqliteStorage
from romancy.worker import committer, worker

from . import orders
from .faults import Fault, FaultyStorage, OffsetClock, StorageProxy
from .orders import World, order_once

pytestmark = pytest.mark.anyio

_LONG = 60.0
"""Seconds after which every session of a dead process has expired."""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon after a failure: that it is tried again is what counts."""
    monkeypatch.setattr(worker, "_PAUSE_AFTER_FAILURE", 0.001)
    monkeypatch.setattr(committer, "_FIRST_PAUSE", 0.001)


class Universe:
    """One database, the processes that use it one after the other, and what they did."""

    def __init__(self, clock: OffsetClock, hot_limit: int) -> None:
        self._clock = clock
        self._hot_limit = hot_limit
        self.database = SqliteStorage("sqlite://", clock=clock)
        self.world = World()
        self.processes: list[FaultyStorage] = []

    async def __aenter__(self) -> Self:
        await self.database.open()
        orders.world = self.world
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()

    async def order(
        self, *, is_out_of_stock: bool, fail_at: int = 0, fault: Fault = Fault.BEFORE, is_mortal: bool = False
    ) -> tuple[str, dict[str, Any]]:
        """Run the order to its end, in as many processes as it takes."""
        while True:
            process = FaultyStorage(
                self.database,
                fail_at=fail_at,
                fault=fault,
                is_mortal=is_mortal,
                recorded=self.world.recorded,
            )
            self.processes.append(process)
            outcome = await self._live(process, is_out_of_stock=is_out_of_stock)
            if outcome is not None:
                return outcome
            fail_at = 0
            self._clock.advance(_LONG)

    async def _live(self, process: FaultyStorage, *, is_out_of_stock: bool) -> tuple[str, dict[str, Any]] | None:
        """Run one process; None if it dies, or does not come up."""
        app = App(
            process.storage,
            workflows=[orders.sweep_order, orders.sweep_depot],
            clock=self._clock,
            hot_limit=self._hot_limit,
            grace=timedelta(0) if process.is_mortal else timedelta(seconds=5),
            poll_interval=timedelta(milliseconds=20),
        )
        try:
            async with app:
                ordering = asyncio.create_task(order_once(app, is_out_of_stock=is_out_of_stock))
                dying = asyncio.create_task(process.died.wait())
                try:
                    await asyncio.wait([ordering, dying], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    dying.cancel()
                    if not ordering.done():
                        ordering.cancel()
                    await asyncio.wait([ordering, dying])
                if process.died.is_set():
                    await asyncio.gather(ordering, return_exceptions=True)
                    return None
                return ordering.result()
        except StorageError:
            if not process.has_failed:
                raise
            return None


@pytest.mark.parametrize("is_out_of_stock", [False, True], ids=["shipped", "compensated"])
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_run_ends_as_undisturbed_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool, is_out_of_stock: bool
) -> None:
    async with Universe(clock, hot_limit) as undisturbed:
        expected = await undisturbed.order(is_out_of_stock=is_out_of_stock)
        effects = undisturbed.world.effects
        assert set(effects.values()) == {1}
    fail_at = 0
    while True:
        fail_at += 1
        async with Universe(clock, hot_limit) as universe:
            outcome = await universe.order(
                is_out_of_stock=is_out_of_stock, fail_at=fail_at, fault=fault, is_mortal=is_mortal
            )
            first = universe.processes[0]
            where = f"call {fail_at}: {first.calls[-1] if is_mortal else first.calls[fail_at - 1 : fail_at]}"
            assert outcome == expected, where
            assert not universe.world.repeated, where
            assert set(universe.world.effects) == set(effects), where
            if not is_mortal and len(universe.processes) == 1:
                assert universe.world.effects == effects, where
            if not first.has_failed:
                break
    assert fail_at > 15


async def test_claim_whose_acknowledgement_is_lost_is_found_again_by_its_worker(
    clock: OffsetClock, hot_limit: int
) -> None:
    async with Universe(clock, hot_limit) as universe:
        forgetful = ForgetfulStorage(universe.database)
        async with App(
            forgetful.storage,
            workflows=[orders.sweep_depot],
            clock=clock,
            hot_limit=hot_limit,
            poll_interval=timedelta(milliseconds=20),
        ) as app:
            handle = await app.start(orders.sweep_depot(), id="depot")
            await app.send(orders.parcels, "tea", to="depot")
            assert await handle.result(timeout=2) == "tea"


class ForgetfulStorage(StorageProxy):
    """Lose the acknowledgement of the first claim that takes something."""

    has_forgotten = False

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        result = await super().call(name, *args, **kwargs)
        if name == "claim" and result.claims and not self.has_forgotten:
            self.has_forgotten = True
            raise StorageError("injected: the acknowledgement of a claim is lost")
        return result


async def test_client_hears_of_ends_after_watching_for_changes_has_failed(clock: OffsetClock, hot_limit: int) -> None:
    async with Universe(clock, hot_limit) as universe:
        soon = timedelta(milliseconds=20)
        async with (
            App(StorageProxy(universe.database).storage, clock=clock, hot_limit=hot_limit, poll_interval=soon),
            App(UnwatchableStorage(universe.database).storage, clock=clock, worker=False, poll_interval=soon) as client,
        ):
            handle = await client.start(orders.sweep_depot(), id="depot")
            waiting = asyncio.create_task(handle.result(timeout=3))
            await asyncio.sleep(0.05)
            await client.send(orders.parcels, "tea", to="depot")
            assert await waiting == "tea"


class UnwatchableStorage(StorageProxy):
    """Fail to watch for changes, once."""

    has_failed = False

    async def wait_for_change(self, timeout: timedelta) -> bool:
        if not self.has_failed:
            self.has_failed = True
            raise StorageError("injected: watching fails")
        return await super().wait_for_change(timeout)


@pytest.mark.parametrize("call", ["claim", "commit", "mail", "renew_session", "reap_sessions"])
async def test_worker_survives_an_error_that_no_storage_should_raise(
    clock: OffsetClock, hot_limit: int, call: str
) -> None:
    async with Universe(clock, hot_limit) as universe:
        broken = BrokenStorage(universe.database, call)
        ttl = timedelta(seconds=1) if call == "renew_session" else timedelta(seconds=10)
        async with App(
            broken.storage,
            workflows=[orders.sweep_order, orders.sweep_depot],
            clock=clock,
            hot_limit=hot_limit,
            session_ttl=ttl,
            poll_interval=timedelta(milliseconds=20),
        ) as app:
            if call == "renew_session":
                await asyncio.wait_for(broken.is_broken.wait(), 5)
            outcome, _ = await asyncio.wait_for(order_once(app, is_out_of_stock=False), 5)
    assert broken.is_broken.is_set()
    assert outcome.startswith("'tea label of tea' ['reservation of tea'")


class BrokenStorage(StorageProxy):
    """Raise something unexpected, once."""

    def __init__(self, inner: Storage, name: str) -> None:
        super().__init__(inner)
        self._name = name
        self.is_broken = asyncio.Event()

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == self._name and not self.is_broken.is_set():
            self.is_broken.set()
            raise KeyError("injected: a bug")
        return await super().call(name, *args, **kwargs)
