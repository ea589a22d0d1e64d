"""Every storage call of transactional activities fails in turn: the caller's rows are what is recorded."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast

import pytest

from romancy import App, Channel, Connection, InstanceAlreadyExistsError, RetryPolicy, activity, connection, workflow
from romancy.client.handle import Handle
from romancy.core import registry

from .conftest import BackEnd
from .faults import Fault, OffsetClock, insist
from .sweep import WORLDS, Scenario, act, outcome_of, sweep
from .transactional import Dialect, forget

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

_AT_ONCE = RetryPolicy(initial_interval=timedelta(milliseconds=1))
letters = Channel("txsweep_letters", str)


def the_app() -> App:
    return cast("App", registry.the_open_app("txsweep"))


@pytest.fixture(autouse=True)
def fresh_world(request: pytest.FixtureRequest) -> None:
    forget(request)


def insert() -> str:
    return f"INSERT INTO txsweep (text) VALUES ({Dialect.parameter})"


async def write(db: Connection, text: str) -> None:
    await db.execute(insert(), (text,))


@activity(transactional=True, retry=_AT_ONCE)
async def txsweep_prepare() -> None:
    await connection().execute("CREATE TABLE txsweep (text TEXT)")


@activity(transactional=True, retry=_AT_ONCE)
async def txsweep_write(text: str) -> str:
    db = connection()
    await db.executemany(insert(), [(f"{text} 1",), (f"{text} 2",)])
    return text


@activity(transactional=True, retry=_AT_ONCE)
async def txsweep_delegate(text: str) -> str:
    db = connection()
    await write(db, text)
    await the_app().start(txsweep_helper(text), id=text)
    await the_app().send(letters, "first", to=text)
    await the_app().send(letters, "second", to="order")
    return text


@activity(transactional=True, retry=_AT_ONCE)
async def txsweep_refuse(text: str) -> str:
    db = connection()
    await write(db, text)
    await the_app().start(txsweep_helper(text), id=f"never {text}")
    try:
        await the_app().start(txsweep_helper(text), id="order")
    except InstanceAlreadyExistsError as exc:
        raise ValueError("refused") from exc
    return text


@activity
async def txsweep_plain(text: str) -> str:
    act(text)
    return text


@activity(transactional=True, retry=_AT_ONCE)
async def txsweep_read() -> list[str]:
    return [text for (text,) in await connection().fetch_all("SELECT text FROM txsweep ORDER BY text")]


@workflow
async def txsweep_helper(text: str) -> str:
    return await letters.receive() + await txsweep_write(f"helper of {text}")


@workflow
async def txsweep_order() -> list[object]:
    await txsweep_prepare()
    done = await asyncio.gather(
        txsweep_write("left"), txsweep_plain("beside"), txsweep_write("right"), txsweep_delegate("helper")
    )
    letter = await letters.receive()
    try:
        await txsweep_refuse.options(retry=RetryPolicy(initial_interval=0.001, non_retryable=(ValueError,)))("nothing")
    except ValueError as exc:
        return [done, letter, str(exc)]
    return []


@workflow
async def txsweep_audit() -> list[str]:
    return await txsweep_read()


async def recorded(handle: Handle[Any]) -> list[tuple[str, str]]:
    """Return what is recorded but failed attempts: a body that is disturbed is tried again."""
    events = await insist(handle.history)
    assert [event.seq for event in events] == list(range(len(events)))
    return sorted((event.kind, event.activity_id or "") for event in events if event.kind != "activity_retried")


async def play(app: App) -> object:
    order = await insist(lambda: app.start(txsweep_order(), id="order", on_conflict="attach"))
    outcome = await outcome_of(order)
    helper = await insist(lambda: app.get("helper"))
    helped = await outcome_of(helper)
    audit = await insist(lambda: app.start(txsweep_audit(), id="audit", on_conflict="attach"))
    ids = [info.id for info in await insist(app.list)]
    return outcome, helped, await outcome_of(audit), ids, await recorded(order), await recorded(helper)


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize(("back_end", "hot_limit"), WORLDS, indirect=True)
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_rows_are_what_is_recorded_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, back_end: BackEnd, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([txsweep_order, txsweep_helper, txsweep_audit], play)
    await sweep(
        scenario,
        clock,
        hot_limit,
        fault=fault,
        is_mortal=is_mortal,
        at_least=25,
        make=back_end.storage,
        every=back_end.every,
    )
