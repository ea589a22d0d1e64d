"""Instances seen from outside."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from romancy import (
    App,
    Channel,
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    NoAppError,
    OutsideWorkflowError,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    activity,
    recur,
    workflow,
    workflow_info,
)

from .conftest import MakeApp
from .processes import running
from .scripts import stale

pytestmark = pytest.mark.anyio

letters = Channel("handle_letters", str)
numbers = Channel("handle_numbers", int)
bodies: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    bodies.clear()


@dataclass
class Receipt:
    order: str
    amounts: list[int]
    at: datetime


class HandlingError(Exception):
    """What the workflow raises."""


@activity
async def handle_act(what: str) -> str:
    bodies[what] += 1
    return what


@workflow
async def handle_receipt(order: str) -> Receipt:
    return Receipt(await handle_act(order), [1, 2], datetime(2026, 1, 1, tzinfo=UTC))


@workflow
async def handle_fails() -> None:
    raise HandlingError("on purpose")


@workflow
async def handle_waits(count: int = 1) -> list[str]:
    return [await letters.receive() for _ in range(count)]


@workflow
async def handle_buggy() -> None:
    wrong: Any = None
    wrong.no_such_attribute()


@workflow
async def handle_sends(to: str) -> str:
    try:
        await letters.send("hello", to=to)
    except (InstanceClosedError, InstanceNotFoundError) as exc:
        return f"{type(exc).__name__}: {exc}"
    return "sent"


@workflow
async def handle_cleans_up() -> str:
    try:
        await letters.receive()
    except asyncio.CancelledError:
        return await handle_act("cleaned up")
    return "received"


@workflow
async def handle_shields() -> None:
    async def inner() -> str:
        return await letters.receive()

    task = asyncio.create_task(inner())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await handle_act(await task)
        raise


@workflow
async def handle_counts_down(left: int, seen: list[str]) -> list[str]:
    seen = [*seen, await handle_act(f"run {workflow_info().run}")]
    if left:
        recur(handle_counts_down(left - 1, seen[-2:]))
    return seen


@workflow
async def handle_reads(left: int, seen: list[int]) -> list[int]:
    seen = [*seen, await numbers.receive()]
    if left > 1:
        recur(handle_reads(left - 1, seen))
    return seen


async def test_result_is_what_the_workflow_is_annotated_with(database: str, make_app: MakeApp) -> None:
    expected = Receipt("tea", [1, 2], datetime(2026, 1, 1, tzinfo=UTC))
    async with make_app(database) as app:
        handle = await app.start(handle_receipt("tea"), id="one")
        assert await handle.result() == expected
        assert await handle.result() == expected
        assert await app.run(handle_receipt("tea"), id="one") == expected
    async with make_app(database) as app:
        assert await (await app.get("one")).result() == expected
    assert bodies["tea"] == 1


async def test_status_and_info_follow_the_instance(make_app: MakeApp, hot_limit: int) -> None:
    async with make_app() as app:
        handle = await app.start(handle_waits(), id="one")
        while not (info := await handle.info()).waiting_on or info.is_owned != bool(hot_limit):
            await asyncio.sleep(0.001)
        assert (info.id, info.workflow, info.version, info.status, info.run) == (
            "one",
            "handle_waits",
            "1",
            "running",
            0,
        )
        (wait,) = info.waiting_on
        assert info.started_at is not None
        assert info.created_at <= datetime.fromisoformat(wait.pop("since")) <= datetime.now(UTC)
        assert wait == {"kind": "receive", "id": "1:handle_letters", "channel": "handle_letters"}
        assert info.created_at.tzinfo is not None
        assert info.wake_at is None
        await handle.send(letters, "letter")
        assert await handle.result() == ["letter"]
        info = await handle.info()
        assert info.status == "completed"
        assert not info.is_owned
        assert info.closed_at is not None
        assert info.started_at is not None
        assert info.created_at <= info.started_at <= info.closed_at
        assert not info.waiting_on


async def test_failure_is_told_with_type_message_and_stack(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_fails(), id="one")
        with pytest.raises(WorkflowFailedError, match="HandlingError: on purpose") as caught:
            await handle.result()
        assert await handle.status() == "failed"
    assert caught.value.failure is not None
    assert "test_handles.py" in caught.value.failure.traceback


async def test_result_of_a_blocked_instance_raises_at_once(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_buggy(), id="one")
        with pytest.raises(WorkflowBlockedError, match="no_such_attribute") as caught:
            await handle.result()
        assert "test_handles.py" in caught.value.stack
        with pytest.raises(WorkflowBlockedError):
            await (await app.get("one")).result()
        with pytest.raises(TimeoutError):
            await handle.result(wait_blocked=True, timeout=0.02)


async def test_result_with_a_timeout_leaves_the_instance_alone(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_waits())
        with pytest.raises(TimeoutError):
            await handle.result(timeout=timedelta(milliseconds=10))
        await handle.send(letters, "letter")
        assert await handle.result() == ["letter"]


async def test_unknown_and_closed_instances_are_refused(make_app: MakeApp) -> None:
    async with make_app() as app:
        for unknown in (
            app.get("none"),
            app.send(letters, "letter", to="none"),
            app.cancel("none"),
            app.terminate("none"),
            app.purge("none"),
        ):
            with pytest.raises(InstanceNotFoundError, match="none"):
                await unknown
        handle = await app.start(handle_receipt("tea"), id="one")
        await handle.result()
        for refused in (handle.send(letters, "letter"), handle.cancel(), handle.terminate()):
            with pytest.raises(InstanceClosedError, match="one"):
                await refused
        with pytest.raises(InstanceAlreadyExistsError, match="one"):
            await app.start(handle_receipt("tea"), id="one")
        await app.purge("one")
        with pytest.raises(InstanceNotFoundError):
            await handle.status()


@pytest.mark.parametrize("id", ["", "x" * 256, "line\nbreak"])
async def test_impossible_ids_are_refused(make_app: MakeApp, id: str) -> None:
    async with make_app() as app:
        with pytest.raises(ValueError, match="id"):
            await app.start(handle_receipt("tea"), id=id)


async def test_message_id_makes_a_send_idempotent(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_waits(3))
        for letter, message_id in (("a", "1"), ("again", "1"), ("b", "2"), ("again", "1"), ("c", "3")):
            await handle.send(letters, letter, message_id=message_id)
        assert await handle.result() == ["a", "b", "c"]
        await handle.send(letters, "again", message_id="1")


async def test_messages_of_one_sender_arrive_in_order(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_waits(50))
        for n in range(50):
            await handle.send(letters, f"{n}")
        assert await handle.result() == [f"{n}" for n in range(50)]


async def test_send_from_a_workflow_tells_of_closed_and_unknown_instances(make_app: MakeApp) -> None:
    async with make_app() as app:
        await app.run(handle_receipt("tea"), id="closed")
        assert (await app.run(handle_sends("closed"))).startswith("InstanceClosedError")
        assert (await app.run(handle_sends("none"))).startswith("InstanceNotFoundError")
        waiting = await app.start(handle_waits(), id="waiting")
        assert await app.run(handle_sends("waiting")) == "sent"
        assert await waiting.result() == ["hello"]


async def test_cancel_raises_once_and_cleanup_may_run_activities(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_cleans_up(), id="one")
        await handle.cancel("first")
        assert await handle.result() == "cleaned up"
        assert await handle.status() == "completed"
    assert bodies == {"cleaned up": 1}


async def test_cancel_reaches_a_run_that_has_not_begun(make_app: MakeApp, database: str) -> None:
    async with make_app(database, worker=False) as app:
        handle = await app.start(handle_receipt("tea"), id="one")
        await handle.cancel("too late")
    async with make_app(database) as app:
        with pytest.raises(WorkflowCancelledError, match="too late"):
            await (await app.get("one")).result()
    assert not bodies


async def test_shielded_work_goes_on_when_the_run_is_cancelled(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_shields(), id="one")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.001)
        await handle.cancel()
        await handle.send(letters, "letter")
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert bodies == {"letter": 1}


async def test_terminate_ends_at_once_and_runs_nothing(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_cleans_up(), id="one")
        await handle.terminate("enough")
        with pytest.raises(WorkflowTerminatedError, match="enough"):
            await handle.result()
        assert await handle.status() == "terminated"
    assert not bodies


async def test_recur_opens_runs_with_fresh_history(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_counts_down(200, []), id="one")
        assert await handle.result() == ["run 198", "run 199", "run 200"]
        info = await handle.info()
        assert (info.run, info.events) == (200, 2)
        assert [event.kind for event in await handle.history()] == ["activity_completed", "run_completed"]
    assert set(bodies.values()) == {1}
    assert len(bodies) == 201


async def test_recur_keeps_unread_messages(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_reads(20, []), id="one")
        for n in range(20):
            await handle.send(numbers, n)
        assert await handle.result() == list(range(20))


async def test_workflow_call_awaited_with_one_app_open_runs_there(make_app: MakeApp) -> None:
    with pytest.raises(NoAppError):
        await handle_receipt("tea")
    async with make_app() as app:
        receipt = await handle_receipt("tea")
        assert receipt.order == "tea"
        assert len(await app.list()) == 1
        async with make_app():
            with pytest.raises(NoAppError, match="2 Apps"):
                await handle_receipt("tea")
        assert (await handle_receipt("milk")).order == "milk"


async def test_activity_awaited_outside_just_runs() -> None:
    assert await handle_act("outside") == "outside"
    assert await handle_receipt.fn("inline") == Receipt("inline", [1, 2], datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(OutsideWorkflowError):
        await letters.receive()


async def test_list_filters(make_app: MakeApp) -> None:
    async with make_app() as app:
        for n in range(5):
            await app.run(handle_receipt("tea"), id=f"done-{n}")
        await app.start(handle_waits(), id="waiting-1")
        assert [info.id for info in await app.list(id_prefix="done-", limit=3)] == ["done-0", "done-1", "done-2"]
        assert [info.id for info in await app.list(workflow="handle_waits")] == ["waiting-1"]
        assert len(await app.list(status="completed")) == 5
        with pytest.raises(ValueError, match="no status"):
            await app.list(status="asleep")


async def test_client_only_app_starts_for_the_worker_of_another(database: str, make_app: MakeApp) -> None:
    async with make_app(database), App(database, worker=False) as client:
        assert client.worker is None
        began = time.monotonic()
        for n in range(5):
            assert (await client.run(handle_receipt(f"{n}"))).order == f"{n}"
        assert time.monotonic() - began < 2
        handle = await client.start(handle_waits())
        await handle.send(letters, "letter")
        assert await handle.result() == ["letter"]


async def test_client_only_app_starts_for_the_worker_of_another_process(
    database: str, tmp_path: Any, hot_limit: int
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    async with running("stale.py", database, hot_limit, gate) as process:
        await process.expect("body of one, pid first")
        async with App(database, worker=False) as client:
            began = time.monotonic()
            for n in range(5):
                assert await client.run(stale.wait_for_gate(f"{n}")) == f"{n} by first"
            assert time.monotonic() - began < 2


async def test_two_apps_on_one_database_share_the_work(database: str, make_app: MakeApp) -> None:
    async with make_app(database) as one, make_app(database) as other:
        handles = [await (one, other)[n % 2].start(handle_waits(), id=f"{n}") for n in range(20)]
        for n in range(20):
            await (other, one)[n % 2].send(letters, f"{n}", to=f"{n}")
        assert [await handle.result() for handle in handles] == [[f"{n}"] for n in range(20)]


async def test_start_in_a_workflow_is_refused(make_app: MakeApp) -> None:
    async def starts() -> None:
        await app.start(handle_waits())

    definition = workflow(name="handle_starts")(starts)
    async with make_app(workflows=[definition]) as app:
        with pytest.raises(WorkflowBlockedError, match="put it in an activity"):
            await app.run(definition())


async def test_page_without_items_is_refused(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(handle_receipt("tea"), id="one")
        for refused in (app.list(limit=0), handle.runs(limit=-1)):
            with pytest.raises(ValueError, match="at least one item"):
                await refused


@pytest.mark.parametrize("name", ["session_ttl", "transaction_limit"])
def test_duration_that_must_be_positive_is_checked(name: str) -> None:
    settings: dict[str, Any] = {name: timedelta(0)}
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        App("sqlite://", **settings)
