"""Custom status and tags: what clients read and filter by while a run goes on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from romancy import (
    App,
    Channel,
    CodecError,
    Handle,
    OutsideWorkflowError,
    PayloadTooLargeError,
    activity,
    recur,
    set_custom_status,
    set_tags,
    workflow,
)
from romancy.core.records import Entry
from romancy.storage.protocol import Storage

from .conftest import MakeApp
from .faults import Fault, MeddlingStorage, OffsetClock, insist
from .sweep import Scenario, act, events_of, outcome_of, sweep

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

go_on = Channel("status_go_on", str)


async def shows(handle: Handle[Any], status: object) -> dict[str, str]:
    """Wait until an instance shows a status; return its tags."""
    while (info := await handle.info()).custom_status != status:
        await asyncio.sleep(0.001)
    return info.tags


@activity
async def status_step(name: str) -> str:
    act(name)
    return name


@workflow
async def status_of_order(customer: str) -> str:
    set_custom_status("received")
    set_tags({"customer": customer, "stage": "new"})
    await go_on.receive()
    await status_step("pay")
    set_custom_status({"step": 2, "of": 3})
    set_tags({"stage": "paid"})
    await go_on.receive()
    set_tags({"stage": None})
    set_custom_status("done")
    return "shipped"


async def test_client_reads_and_filters_by_status_and_tags_while_the_run_goes_on(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(status_of_order("42"), id="one", tags={"region": "eu", "stage": "ordered"})
        assert await shows(handle, "received") == {"customer": "42", "stage": "new", "region": "eu"}
        other = await app.start(status_of_order("43"), id="two", tags={"region": "eu"})
        await shows(other, "received")
        await app.send(go_on, "go", to="one")
        assert await shows(handle, {"of": 3, "step": 2}) == {"customer": "42", "stage": "paid", "region": "eu"}

        async def found(**where: Any) -> list[str]:
            return [info.id for info in await app.list(**where)]

        assert await found(tags={"customer": "42"}) == ["one"]
        assert await found(tags={"region": "eu"}) == ["one", "two"]
        assert await found(tags={"region": "eu", "stage": "new"}) == ["two"]
        assert await found(tags={"region": "eu", "stage": "ordered"}) == []
        assert await found(tags={"region": "us"}) == []
        assert await found(custom_status="received") == ["two"]
        assert await found(custom_status={"of": 3, "step": 2}) == ["one"]
        assert await found(custom_status={"step": 2, "of": 3}, tags={"customer": "42"}, status="running") == ["one"]
        assert await found(custom_status="received", tags={"customer": "42"}) == []
        assert await found(tags={"region": "eu"}, id_prefix="tw", workflow="status_of_order") == ["two"]
        await app.send(go_on, "go", to="one")
        assert await handle.result() == "shipped"
        info = await handle.info()
        assert (info.custom_status, info.tags) == ("done", {"customer": "42", "region": "eu"})
        assert await found(tags={"stage": "paid"}) == []
        await app.purge("one")
        assert await found(tags={"customer": "42"}) == []


async def test_status_is_no_event(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(status_of_order("42"), id="one")
        await shows(handle, "received")
        assert await handle.history() == []


async def play_order(app: App) -> tuple[Any, ...]:
    handle = await insist(
        lambda: app.start(status_of_order("42"), id="one", tags={"region": "eu"}, on_conflict="attach")
    )
    await insist(lambda: app.send(go_on, "go", to="one", message_id="first"))
    while (info := await insist(handle.info)).tags.get("stage") == "new":
        await asyncio.sleep(0.001)
    await insist(lambda: app.send(go_on, "go", to="one", message_id="second"))
    outcome = await outcome_of(handle)
    info = await insist(handle.info)
    listed = [i.id for i in await insist(lambda: app.list(tags={"customer": "42", "region": "eu"}))]
    gone = await insist(lambda: app.list(tags={"stage": "paid"}))
    return outcome, await events_of(handle), info.custom_status, info.tags, listed, gone


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_status_and_tags_are_as_undisturbed_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([status_of_order], play_order), clock, hot_limit, fault=fault, is_mortal=is_mortal)


async def test_turn_writes_status_and_tags_once_and_a_replay_does_not(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    written: list[object] = []

    async def note(entries: Any) -> None:
        written.extend(entry.shown for entry in cast("list[Entry]", entries) if entry.shown is not None)

    async with make_app(MeddlingStorage(shared, before=note).storage, clock=clock) as app:
        handle = await app.start(status_of_order("42"), id="one")
        await shows(handle, "received")
        await app.send(go_on, "go", to="one")
        await shows(handle, {"step": 2, "of": 3})
        await app.send(go_on, "go", to="one")
        await handle.result()
    # The two receives and the activity are replayed several times where the run is cold.
    assert len(written) == 3


async def test_cold_run_that_only_waits_does_not_show_again_what_it_showed(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    written: list[object] = []

    async def note(entries: Any) -> None:
        written.extend(entry.shown for entry in cast("list[Entry]", entries) if entry.shown is not None)

    async with make_app(MeddlingStorage(shared, before=note).storage, clock=clock) as app:
        await shows(await app.start(status_of_order("42"), id="one"), "received")
        while not (await (await app.get("one")).info()).waiting_on:
            await asyncio.sleep(0.001)
    async with make_app(MeddlingStorage(shared, before=note).storage, clock=clock) as app:
        await app.send(Channel("status_others", str), "nothing waits for it", to="one")
        while (await (await app.get("one")).info()).unread:
            await asyncio.sleep(0.001)
    assert len(written) == 1


@workflow
async def status_blocks() -> None:
    set_custom_status("fine")
    await go_on.receive()
    set_custom_status("of a turn that does not happen")
    raise NameError("typo")


async def test_turn_that_is_blocked_shows_nothing(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(status_blocks(), id="one")
        await app.send(go_on, "go", to="one")
        while (await handle.info()).status != "blocked":
            await asyncio.sleep(0.001)
        assert (await handle.info()).custom_status in ("fine", None)
        await asyncio.sleep(0)
        assert not await app.list(custom_status="of a turn that does not happen")


@workflow
async def status_recurs(run: int) -> str:
    if run == 0:
        set_custom_status({"run": run})
        set_tags({"kind": "recurring"})
        recur(status_recurs(1))
    await go_on.receive()
    return "done"


async def test_status_and_tags_stay_across_recur(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(status_recurs(0), id="one", tags={"a": "b"})
        while (await handle.info()).run == 0:
            await asyncio.sleep(0.001)
        info = await handle.info()
        assert (info.custom_status, info.tags) == ({"run": 0}, {"a": "b", "kind": "recurring"})


@workflow
async def status_clears() -> None:
    set_custom_status("something")
    set_custom_status(None)


async def test_last_status_of_a_turn_counts_and_none_is_nothing(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(status_clears())
        await handle.result()
        assert (await handle.info()).custom_status is None


@workflow
async def status_misuses() -> list[str]:
    found: list[str] = []
    bad: list[Any] = [
        {"x" * 65: "v"},
        {"name": "v" * 257},
        {"": "v"},
        {"two\nlines": "v"},
        {"name": "two\nlines"},
        {"name": 7},
        {7: "v"},
        "text",
        {str(number): "v" for number in range(33)},
    ]
    for tags in bad:
        try:
            set_tags(tags)
        except (CodecError, PayloadTooLargeError) as exc:
            found.append(f"{type(exc).__name__}: {exc}")
    for value in (object(), "x" * 16_385):
        try:
            set_custom_status(value)
        except (CodecError, PayloadTooLargeError) as exc:
            found.append(f"{type(exc).__name__}: {exc}")
    set_tags({f"some {number}": "v" for number in range(20)})
    await status_step("replayed")
    try:
        set_tags({f"others {number}": "v" for number in range(13)})
    except PayloadTooLargeError as exc:
        found.append(f"{type(exc).__name__}: {exc}")
    return found


async def test_misuse_is_an_error_at_the_call_and_writes_nothing_of_it(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(status_misuses(), id="one")
        found = await handle.result()
        assert [error.partition(":")[0] for error in found] == [
            *["PayloadTooLargeError"] * 2,
            *["CodecError"] * 6,
            "PayloadTooLargeError",
            "CodecError",
            "PayloadTooLargeError",
            "PayloadTooLargeError",
        ]
        assert all("set_tags()" in error or "set_custom_status()" in error for error in found)
        info = await handle.info()
        assert info.tags == {f"some {number}": "v" for number in range(20)}
        assert info.custom_status is None
        for tags in ({"x" * 65: "v"}, {"name": None}, {"name": 7}):
            with pytest.raises((CodecError, PayloadTooLargeError), match="start"):
                await app.start(status_clears(), id="two", tags=cast("Any", tags))
            with pytest.raises((CodecError, PayloadTooLargeError), match="list"):
                await app.list(tags=cast("Any", tags))
        assert not await app.list(id_prefix="two")


async def test_text_of_any_language_comes_back(make_app: MakeApp) -> None:
    tags = {"größe": "日本語 'quoted\" \\ 🙂", "leer": ""}
    async with make_app() as app:
        handle = await app.start(status_clears(), id="one", tags=tags)
        assert (await handle.info()).tags == tags
        for name, value in tags.items():
            assert [info.id for info in await app.list(tags={name: value})] == ["one"]


async def test_pages_go_on_after_a_cursor(make_app: MakeApp) -> None:
    async with make_app(worker=False) as app:
        for number in range(7):
            await app.start(status_clears(), id=f"{number}", tags={"parity": "odd" if number % 2 else "even", "a": "b"})
        found: list[str] = []
        after: str | None = None
        for _ in range(4):
            page = await app.list(tags={"a": "b", "parity": "even"}, after=after, limit=2)
            found += [info.id for info in page]
            after = page[-1].cursor if page else after
        assert found == ["0", "2", "4", "6"]
        page = await app.list(limit=3)
        assert [info.id for info in await app.list(after=page[-1].cursor, limit=2)] == ["3", "4"]
        for cursor in ("", "x", "-1", "9" * 30):
            with pytest.raises(ValueError, match="cursor"):
                await app.list(after=cursor)


def test_status_and_tags_outside_of_a_workflow_are_refused() -> None:
    with pytest.raises(OutsideWorkflowError, match="set_custom_status"):
        set_custom_status("x")
    with pytest.raises(OutsideWorkflowError, match="set_tags"):
        set_tags({})
