"""Every storage call of a run fails in turn; the run ends as if none had."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from romancy import App, StorageError
from romancy.storage.protocol import Storage

from . import orders
from .conftest import BackEnd
from .faults import Fault, OffsetClock, StorageProxy
from .orders import order_once
from .sweep import WORLDS, Scenario, Universe, sweep

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]


@pytest.mark.parametrize("is_out_of_stock", [False, True], ids=["shipped", "compensated"])
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize(("back_end", "hot_limit"), WORLDS, indirect=True)
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_run_ends_as_undisturbed_whichever_storage_call_fails(  # noqa: PLR0917 - pytest passes them by name
    clock: OffsetClock, hot_limit: int, back_end: BackEnd, fault: Fault, is_mortal: bool, is_out_of_stock: bool
) -> None:
    scenario = Scenario([orders.sweep_order, orders.sweep_depot], partial(order_once, is_out_of_stock=is_out_of_stock))
    await sweep(
        scenario,
        clock,
        hot_limit,
        fault=fault,
        is_mortal=is_mortal,
        at_least=15,
        make=back_end.storage,
        every=back_end.every,
    )


async def test_claim_whose_acknowledgement_is_lost_is_found_again_by_its_worker(
    clock: OffsetClock, hot_limit: int, back_end: BackEnd
) -> None:
    async with Universe(clock, hot_limit, back_end.storage) as universe:
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


async def test_client_hears_of_ends_after_watching_for_changes_has_failed(
    clock: OffsetClock, hot_limit: int, back_end: BackEnd
) -> None:
    async with Universe(clock, hot_limit, back_end.storage) as universe:
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
    clock: OffsetClock, hot_limit: int, back_end: BackEnd, call: str
) -> None:
    async with Universe(clock, hot_limit, back_end.storage) as universe:
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
