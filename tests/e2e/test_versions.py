"""Deploying changed workflows while runs are under way: patches, versions, blocked runs that go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from romancy import (
    App,
    Channel,
    DefinitionError,
    Handle,
    NonRetryableError,
    WorkflowBlockedError,
    WorkflowFailedError,
    activity,
    patched,
    recur,
    workflow,
)
from romancy.core.definitions import Workflow
from romancy.core.versions import version_key
from romancy.storage.protocol import Storage
from romancy.worker.settings import WorkerSettings

from .conftest import MakeApp
from .faults import Fault, OffsetClock, StorageProxy, insist
from .sweep import Scenario, act, begin, events_of, outcome_of, sweep

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

go_on = Channel("versions_go_on", str)
bodies: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    bodies.clear()


@activity
async def versions_step(name: str) -> str:
    bodies[name] += 1
    return name


@versions_step.compensation
async def versions_undo(result: str, name: str) -> None:
    bodies[f"undo {name}"] += 1


async def parked(handle: Handle[Any]) -> None:
    """Wait until a run waits for a message."""
    while not any(wait.get("channel") == go_on.name for wait in (await handle.info()).waiting_on):
        await asyncio.sleep(0.001)


def deployments(name: str, *codes: Callable[[], Any]) -> list[Workflow[[], list[str]]]:
    """Return one workflow as deployments one after the other have it."""

    def deployed(code: Callable[[], Any]) -> Workflow[[], list[str]]:
        async def run() -> list[str]:
            found: list[str] = await code()
            return found

        return workflow(name=name)(run)

    return [deployed(code) for code in codes]


async def old_code() -> list[str]:
    found = [await go_on.receive()]
    for _ in range(3):
        found += [await versions_step("old"), await go_on.receive()]
    return found


async def patched_code() -> list[str]:
    found = [await versions_step("greeting")] if patched("versions-greet") else []
    found.append(await go_on.receive())
    for _ in range(3):
        if patched("versions-loop"):
            found.append(await versions_step("new"))
        else:
            found.append(await versions_step("old"))
        found.append(await go_on.receive())
    return found


async def unpatched_code() -> list[str]:
    found = [await versions_step("greeting")]
    found.append(await go_on.receive())
    for _ in range(3):
        found += [await versions_step("new"), await go_on.receive()]
    return found


@pytest.mark.parametrize("passed", range(5))
async def test_run_under_way_keeps_the_old_path_wherever_the_patch_meets_it(
    database: str, make_app: MakeApp, passed: int
) -> None:
    old, new = deployments(f"versions_deployed_{passed}", old_code, patched_code)
    async with make_app(database, workflows=[old]) as app:
        handle = await app.start(old(), id="one")
        for number in range(min(passed, 3)):
            await parked(handle)
            await app.send(go_on, f"m{number}", to="one", message_id=f"m{number}")
            while (await handle.info()).events < 2 * number + 2:
                await asyncio.sleep(0.001)
        await parked(handle)
    expected_path = ["old"] * 3 if passed else None
    for deployed in range(2):  # replayed again and again
        async with make_app(database, workflows=[new], build=str(deployed)) as app:
            await parked(await app.get("one"))
    async with make_app(database, workflows=[new]) as app:
        handle = await app.get("one")
        for number in range(min(passed, 3), 4):
            await app.send(go_on, f"m{number}", to="one", message_id=f"m{number}")
        result = await handle.result()
        assert "greeting" not in result
        if expected_path is None:  # the loop was not reached: only the greeting was gone by
            expected_path = ["new"] * 3
        assert result == ["m0", *(part for n in range(3) for part in (expected_path[n], f"m{n + 1}"))]
        fresh = await app.start(new(), id="two")
        for number in range(4):
            await app.send(go_on, f"m{number}", to="two")
        assert await fresh.result() == ["greeting", "m0", "new", "m1", "new", "m2", "new", "m3"]


async def test_removed_patch_blocks_the_run_and_says_so(database: str, make_app: MakeApp) -> None:
    new, without = deployments("versions_removed", patched_code, unpatched_code)
    async with make_app(database, workflows=[new], build="1") as app:
        await parked(await app.start(new(), id="one"))
    async with make_app(database, workflows=[without], build="2") as app:
        handle = await app.get("one")
        await app.send(go_on, "m0", to="one")
        with pytest.raises(WorkflowBlockedError, match=r"took patch 'versions-greet'.*put the call back"):
            await handle.result()
    async with make_app(database, workflows=[new], build="3") as app:
        for number in range(1, 4):
            await app.send(go_on, f"m{number}", to="one")
        result = await (await app.get("one")).result()
        assert result == ["greeting", "m0", "new", "m1", "new", "m2", "new", "m3"]
    assert bodies == {"greeting": 1, "new": 3}


async def test_run_blocked_before_anything_is_recorded_keeps_the_old_path(database: str, make_app: MakeApp) -> None:
    async def broken() -> list[str]:
        await go_on.receive()
        raise NameError("typo")

    old, new = deployments("versions_broken_at_once", broken, patched_code)
    async with make_app(database, workflows=[old], build="1") as app:
        handle = await app.start(old(), id="one")
        await parked(handle)
        await app.send(go_on, "m0", to="one")
        with pytest.raises(WorkflowBlockedError, match="typo"):
            await handle.result()
        assert not await handle.history()
    async with make_app(database, workflows=[new], build="2") as app:
        for number in range(1, 4):
            await app.send(go_on, f"m{number}", to="one")
        assert (await (await app.get("one")).result())[:2] == ["m0", "new"]


@activity
async def versions_swept_step(name: str) -> str:
    act(name)
    return name


@workflow
async def versions_swept(name: str) -> list[str]:
    found = [await versions_swept_step("first" if patched("first") else "never")]
    found.append(await go_on.receive())
    if patched("second"):
        found.append(await versions_swept_step("second"))
    if patched("first"):
        found.append(await versions_swept_step("third"))
    return found


async def play_patched(app: App) -> tuple[str, list[Any]]:
    handle = await insist(lambda: app.start(versions_swept("x"), id="one", on_conflict="attach"))
    await insist(lambda: app.send(go_on, "go", to="one", message_id="go"))
    outcome = await outcome_of(handle)
    return outcome, await events_of(handle)


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_patch_is_answered_the_same_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    await sweep(Scenario([versions_swept], play_patched), clock, hot_limit, fault=fault, is_mortal=is_mortal)


# -- versions -------------------------------------------------------------------------------------------------


@workflow(name="versions_fulfil", version="9")
async def fulfil_9(rounds: int) -> list[str]:
    first = await versions_step("9")
    await go_on.receive()
    return [first, await versions_step("9 again")]


@workflow(name="versions_fulfil", version="10")
async def fulfil_10(rounds: int) -> list[str]:
    return [await versions_step("10")]


async def test_run_stays_on_the_version_that_it_was_started_with(database: str, make_app: MakeApp) -> None:
    async with make_app(database, workflows=[fulfil_9]) as app:
        await parked(await app.start(fulfil_9(0), id="old"))
    async with make_app(database, workflows=[fulfil_9, fulfil_10]) as app:
        assert await app.run(fulfil_10(0), id="new") == ["10"]
        handle = await app.get("old")
        await app.send(go_on, "go", to="old")
        assert await handle.result() == ["9", "9 again"]
        assert [(i.id, i.version) for i in await app.list()] == [("old", "9"), ("new", "10")]


class ImpatientSettings(WorkerSettings, frozen=True, kw_only=True):
    """Block at once what nobody serves."""

    unserved_grace: timedelta = timedelta(0)


async def test_version_that_is_not_registered_blocks_the_run_until_it_is_again(
    database: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_app(database, workflows=[fulfil_9]) as app:
        await parked(await app.start(fulfil_9(0), id="one"))
    with monkeypatch.context() as patching:
        patching.setattr("romancy.app.WorkerSettings", ImpatientSettings)
        async with make_app(database, workflows=[fulfil_10], session_ttl=timedelta(seconds=1)) as app:
            handle = await app.get("one")
            await app.send(go_on, "go", to="one")
            with pytest.raises(WorkflowBlockedError, match=r"'versions_fulfil', version '9'.*versions '10'"):
                await handle.result()
    async with make_app(database, workflows=[fulfil_9, fulfil_10]) as app:
        assert await (await app.get("one")).result() == ["9", "9 again"]
    assert bodies == {"9": 1, "9 again": 1}


@workflow(name="versions_poll", version="9")
async def poll_9(cursor: int) -> list[str]:
    await versions_swept_step(f"9 at {cursor}")
    recur(poll_9(cursor + 1))


@workflow(name="versions_poll", version="10")
async def poll_10(cursor: int, extra: str = "none") -> list[str]:
    await versions_swept_step(f"10 at {cursor}")
    if cursor < 3:
        recur(poll_9(cursor + 1))
    return [f"10 at {cursor} with {extra}"]


async def test_recur_moves_to_the_newest_version(make_app: MakeApp) -> None:
    async with make_app(workflows=[poll_10, poll_9]) as app:
        handle = await app.start(poll_9(1), id="one")
        assert await handle.result() == ["10 at 3 with none"]
        info = await handle.info()
        assert (info.version, info.run) == ("10", 2)


async def test_recur_stays_on_its_version_where_no_newer_one_is_served(make_app: MakeApp) -> None:
    async with make_app(workflows=[poll_9]) as app:
        handle = await app.start(poll_9(1), id="one")
        while (await handle.info()).run < 3:
            await asyncio.sleep(0.001)
        assert (await handle.info()).version == "9"


async def test_recur_into_a_newer_version_that_takes_other_arguments_is_an_error_that_names_it(
    make_app: MakeApp,
) -> None:
    async def first(cursor: int) -> None:
        recur(old(cursor))

    async def second(cursor: list[str]) -> None: ...

    old = workflow(name="versions_misfit", version="1")(first)
    new = workflow(name="versions_misfit", version="2.0")(second)
    async with make_app(workflows=[old, new]) as app:
        handle = await app.start(old(1))
        with pytest.raises(WorkflowBlockedError, match=r"version '2.0' of workflow 'versions_misfit'.*cursor"):
            await handle.result()
        assert (await handle.info()).run == 0


@workflow(name="versions_typed", version="1")
async def typed_1(cursor: int) -> int:
    recur(typed_1(cursor))


@workflow(name="versions_typed", version="2")
async def typed_2(cursor: int) -> timedelta:
    return timedelta(seconds=cursor)


async def test_result_has_the_type_of_the_version_that_ended(make_app: MakeApp) -> None:
    async with make_app(workflows=[typed_1, typed_2]) as app:
        handle: Handle[Any] = await app.start(typed_1(7), id="one")
        assert await handle.result() == timedelta(seconds=7)
        assert await handle.result() == timedelta(seconds=7)
        attached: Handle[Any] = await app.start(typed_1(8), id="one", on_conflict="attach")
        assert await attached.result() == timedelta(seconds=7)
        later: Handle[Any] = await app.get("one")
        assert await later.result() == timedelta(seconds=7)


async def play_recurring(app: App) -> tuple[str, list[Any], list[str]]:
    handle = await begin(app, lambda: poll_9(1), "one")
    outcome = await outcome_of(handle)
    info = await insist(handle.info)
    runs = await insist(handle.runs)
    kinds = [[event.kind for event in await insist(partial(handle.history, run=run.run))] for run in runs]
    return outcome, kinds, [info.version, str(info.run), str([run.run for run in runs])]


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_recur_moves_to_the_newest_version_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([poll_9, poll_10], play_recurring)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=8)


def test_versions_are_in_natural_order() -> None:
    ordered = ["1", "1.2", "1.9", "1.10", "2", "2-beta", "9", "10", "v2", "v10", "v10.1", "x"]
    assert sorted(set(ordered), key=version_key) == ordered
    assert version_key("01") != version_key("1")


@pytest.mark.parametrize("version", ["", "a b", "x" * 201, 2, None])
def test_version_that_can_not_be_one_is_refused(version: Any) -> None:
    async def flow() -> None: ...

    with pytest.raises(DefinitionError, match="can't be a version of workflow 'flow'"):
        workflow(version=version)(flow)


# -- bugs in deployed code ------------------------------------------------------------------------------------


async def works() -> list[str]:
    found = [await versions_step("a"), await versions_step("b")]
    await go_on.receive()
    return [*found, await versions_step("c")]


async def has_a_typo() -> list[str]:
    found = [await versions_step("a"), await versions_step("b")]
    await go_on.receive()
    bodies["typo"] += 1
    return [*found, await versions_stepp("c")]  # type: ignore[name-defined] # pyright: ignore[reportUndefinedVariable] # noqa: F821 - the typo


async def test_name_error_blocks_and_compensates_nothing_until_the_mended_deploy_comes(
    database: str, make_app: MakeApp
) -> None:
    broken, mended = deployments("versions_typo", has_a_typo, works)
    ids = [str(number) for number in range(5)]
    async with make_app(database, workflows=[broken], build="1") as app:
        handles = [await app.start(broken(), id=id) for id in ids]
        for handle in handles:
            await app.send(go_on, "go", to=handle.id)
        for handle in handles:
            with pytest.raises(WorkflowBlockedError, match="versions_stepp"):
                await handle.result()
            assert (await handle.info()).status == "blocked"
    assert bodies == {"a": 5, "b": 5, "typo": 5}
    async with make_app(database, workflows=[mended], build="2") as app:
        # Without wait_blocked: what is about to go on does not count as blocked any more.
        assert await asyncio.gather(*[(await app.get(id)).result() for id in ids]) == [["a", "b", "c"]] * 5
    assert bodies == {"a": 5, "b": 5, "typo": 5, "c": 5}


async def test_same_build_still_reports_the_block_at_once(database: str, make_app: MakeApp) -> None:
    (broken,) = deployments("versions_same_build", has_a_typo)
    async with make_app(database, workflows=[broken], build="1") as app:
        handle = await app.start(broken(), id="one")
        await app.send(go_on, "go", to="one")
        with pytest.raises(WorkflowBlockedError):
            await handle.result()
    async with make_app(database, workflows=[broken], build="1") as app:
        with pytest.raises(WorkflowBlockedError):
            await (await app.get("one")).result(timeout=3)
    async with make_app(database, workflows=[broken], build="2") as app:
        with pytest.raises(WorkflowBlockedError):
            await (await app.get("one")).result(timeout=3)


async def test_old_and_new_build_side_by_side_do_not_fight_over_a_blocked_run(
    shared: Storage, clock: OffsetClock, make_app: MakeApp
) -> None:
    broken, mended = deployments("versions_side_by_side", has_a_typo, works)

    def app_of(definition: Workflow[..., Any], build: str) -> App:
        proxy = StorageProxy(shared).storage
        pause = timedelta(milliseconds=5)
        return make_app(proxy, workflows=[definition], build=build, clock=clock, poll_interval=pause)

    async with app_of(broken, "1") as old, app_of(mended, "2") as new:
        handles = [await old.start(broken(), id=str(number)) for number in range(4)]
        for handle in handles:
            await old.send(go_on, "go", to=handle.id)
        for handle in handles:
            waiting = await new.get(handle.id)
            assert await waiting.result(wait_blocked=True, timeout=20) == ["a", "b", "c"]
    assert bodies["typo"] <= len(handles)  # the build that can't go on with a run does not take it again
    assert (bodies["a"], bodies["b"], bodies["c"]) == (4, 4, 4)
    assert not any(name.startswith("undo") for name in bodies)


async def test_exception_of_an_activity_is_no_bug_and_compensates(make_app: MakeApp) -> None:
    async with make_app(workflows=[versions_fails]) as app:
        with pytest.raises(WorkflowFailedError, match="by an activity"):
            await app.run(versions_fails())
    assert bodies == {"a": 1, "undo a": 1}


@activity
async def versions_raises() -> None:
    raise NonRetryableError("by an activity")


@workflow
async def versions_fails() -> None:
    await versions_step("a")
    await versions_raises()
