"""What the deployed code can't go on with is blocked, says why, and goes on when a process that fits comes."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from romancy import (
    Channel,
    CodecError,
    PayloadTooLargeError,
    RetryPolicy,
    WorkflowBlockedError,
    WorkflowFailedError,
    activity,
    workflow,
)
from romancy.core.definitions import Activity, Workflow
from romancy.worker.settings import WorkerSettings

from . import orders
from .conftest import MakeApp

pytestmark = pytest.mark.anyio

go_on = Channel("blocking_go_on", str)
bodies: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    bodies.clear()


@activity
async def blocking_returns_a_function() -> object:
    bodies["function"] += 1
    return blocking_returns_a_function.fn


@activity
async def blocking_returns_a_wrong_type() -> int:
    bodies["wrong"] += 1
    wrong: Any = "five"
    return wrong  # type: ignore[no-any-return]


@activity
async def blocking_returns_much(size: int) -> str:
    bodies["much"] += 1
    return "x" * size


@activity
async def blocking_step(name: str) -> str:
    bodies[name] += 1
    return name


@workflow
async def blocking_catches_codec_errors() -> list[str]:
    found: list[str] = []
    for call in (blocking_returns_a_function(), blocking_returns_a_wrong_type()):
        try:
            await call
        except CodecError as exc:
            found.append(str(exc))
    return found


@workflow
async def blocking_lets_a_codec_error_pass() -> object:
    return await blocking_returns_a_function()


@workflow
async def blocking_much(size: int) -> str:
    try:
        return f"got {len(await blocking_returns_much(size))}"
    except PayloadTooLargeError as exc:
        return f"too large: {exc}"


@workflow
async def blocking_much_argument(size: int) -> str:
    try:
        return await blocking_step("x" * size)
    except PayloadTooLargeError as exc:
        return f"too large: {exc}"


async def test_result_that_can_not_be_encoded_is_an_error_that_names_type_and_activity(make_app: MakeApp) -> None:
    async with make_app() as app:
        function, wrong = await app.run(blocking_catches_codec_errors())
        handle = await app.start(blocking_lets_a_codec_error_pass())
        with pytest.raises(WorkflowFailedError, match="blocking_returns_a_function"):
            await handle.result()
    assert "blocking_returns_a_function" in function
    assert "function" in function
    assert "blocking_returns_a_wrong_type" in wrong
    assert "str" in wrong
    assert bodies == {"function": 2, "wrong": 1}


async def test_result_over_the_limit_is_an_error_at_the_activity(make_app: MakeApp) -> None:
    async with make_app(payload_limit=1_000) as app:
        assert await app.run(blocking_much(900)) == "got 900"
        told = await app.run(blocking_much(2_000))
        assert told.startswith("too large")
        assert "blocking_returns_much" in told
        assert "2002" in told or "2,002" in told
        told = await app.run(blocking_much_argument(600))
        assert told == "x" * 600
        told = await app.run(blocking_much_argument(2_000))
        assert "blocking_step" in told
        with pytest.raises(PayloadTooLargeError, match="blocking_needs_text"):
            await app.start(blocking_needs_text("x" * 2_000), id="big")
        assert not await app.list(id_prefix="big")
    assert bodies["much"] == 2


@workflow
async def blocking_needs_text(text: str) -> str:
    return text


def versions_of(name: str) -> tuple[Workflow[[], str], Workflow[[], str]]:
    """Return one workflow as two deployments have it."""

    async def before() -> str:
        await blocking_step("first")
        await go_on.receive()
        return await blocking_step("second")

    async def after() -> str:
        await blocking_much_argument_inline()
        await go_on.receive()
        return await blocking_step("second")

    return workflow(name=name)(before), workflow(name=name)(after)


async def blocking_much_argument_inline() -> str:
    return await blocking_returns_much(3)


async def test_changed_code_blocks_the_instance_until_code_that_fits_comes(database: str, make_app: MakeApp) -> None:
    before, after = versions_of("blocking_changes")
    async with make_app(database, workflows=[before], build="1") as app:
        handle = await app.start(before(), id="one")
        while not await handle.history():
            await asyncio.sleep(0.001)
    async with make_app(database, workflows=[after], build="2") as app:
        await app.send(go_on, "now", to="one")
        handle = await app.get("one")
        with pytest.raises(WorkflowBlockedError) as caught:
            await handle.result()
        reason = caught.value.reason
        assert "'blocking_step'" in reason
        assert "blocking_returns_much" in reason
        assert "test_blocking.py" in reason
        history = await handle.history()
    async with make_app(database, workflows=[before], build="3") as app:
        handle = await app.get("one")
        assert await handle.result(wait_blocked=True) == "second"
        assert (await handle.history())[: len(history)] == history
    assert bodies == {"first": 1, "second": 1}


async def test_deleted_activity_blocks_the_instance_until_it_is_back(database: str, make_app: MakeApp) -> None:
    is_deleted = False

    async def deletes() -> str:
        name = "blocking_step_that_is_gone"
        first = await blocking_step("first")
        await go_on.receive()
        if is_deleted:
            gone: Activity[[str], str] = getattr(orders, name)
            return await gone("second")
        return first

    definition = workflow(name="blocking_deletes")(deletes)
    async with make_app(database, workflows=[definition], build="1") as app:
        handle = await app.start(definition(), id="one")
        while not await handle.history():
            await asyncio.sleep(0.001)
    is_deleted = True
    async with make_app(database, workflows=[definition], build="2") as app:
        await app.send(go_on, "now", to="one")
        handle = await app.get("one")
        with pytest.raises(WorkflowBlockedError, match="blocking_step_that_is_gone") as caught:
            await handle.result()
        assert "test_blocking.py" in caught.value.stack
    is_deleted = False
    async with make_app(database, workflows=[definition], build="3") as app:
        assert await (await app.get("one")).result(wait_blocked=True) == "first"
    assert bodies == {"first": 1}


async def test_unknown_workflow_blocks_the_instance_until_a_process_that_has_it_comes(
    database: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("romancy.app.WorkerSettings", ImpatientSettings)
    before, _ = versions_of("blocking_unknown")
    async with make_app(database, workflows=[blocking_needs_text], session_ttl=timedelta(seconds=1)) as app:
        handle = await app.start(before(), id="one")
        with pytest.raises(WorkflowBlockedError, match="blocking_unknown"):
            await handle.result()
    async with make_app(database, workflows=[before]) as app:
        handle = await app.get("one")
        await app.send(go_on, "now", to="one")
        assert await handle.result(wait_blocked=True) == "second"


class ImpatientSettings(WorkerSettings, frozen=True, kw_only=True):
    """Block at once what nobody serves."""

    unserved_grace: timedelta = timedelta(0)


async def test_programming_error_in_workflow_code_blocks_and_does_not_compensate(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(blocking_has_a_bug())
        with pytest.raises(WorkflowBlockedError, match="no_such_attribute"):
            await handle.result()
    assert bodies == {"first": 1}
    async with make_app(on_bug="fail") as app:
        with pytest.raises(WorkflowFailedError, match="no_such_attribute"):
            await app.run(blocking_has_a_bug())


@workflow
async def blocking_has_a_bug() -> str:
    step = await blocking_step.options(retry=RetryPolicy.none())("first")
    wrong: Any = step
    return str(wrong.no_such_attribute)


async def test_blocking_one_instance_leaves_the_others_alone(make_app: MakeApp) -> None:
    async with make_app() as app:
        handles = [await app.start(blocking_has_a_bug() if n == 5 else blocking_much(n)) for n in range(10)]
        for n, handle in enumerate(handles):
            if n == 5:
                with pytest.raises(WorkflowBlockedError):
                    await handle.result()
            else:
                assert await handle.result() == f"got {n}"


async def test_blocked_run_has_not_cleaned_up_and_goes_on_from_where_it_was(database: str, make_app: MakeApp) -> None:
    """What a leftover task would do on its way out is not what the mended code does."""
    is_mended = False

    async def beside() -> None:
        try:
            await go_on.receive()
        finally:
            await blocking_step("cleanup")

    async def flow() -> Any:
        task = asyncio.create_task(beside())
        step: Any = await blocking_step("first")
        result = step if is_mended else step.no_such_attribute
        await task
        return result

    definition = workflow(name="blocking_leftovers")(flow)
    async with make_app(database, workflows=[definition], build="1") as app:
        handle = await app.start(definition(), id="one")
        with pytest.raises(WorkflowBlockedError, match="no_such_attribute"):
            await handle.result()
        assert bodies == {"first": 1}
    is_mended = True
    async with make_app(database, workflows=[definition], build="2") as app:
        await app.send(go_on, "now", to="one")
        assert await (await app.get("one")).result(wait_blocked=True) == "first"
    assert bodies == {"first": 1, "cleanup": 1}
