"""What ends a run from outside, in which order it takes hold, and whom else it reaches."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from romancy import (
    Channel,
    ChildWorkflowFailedError,
    Handle,
    InstanceAlreadyExistsError,
    WorkflowCancelledError,
    WorkflowTerminatedError,
    activity,
    recur,
    start_child,
    workflow,
)

from .conftest import MakeApp

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

go_on: Channel[str] = Channel("endings.go_on", str)
done: list[str] = []


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    done.clear()


@activity(name="endings_note")
async def note(text: str) -> str:
    done.append(text)
    return text


async def waiting(handle: Handle[Any], kind: str = "receive") -> None:
    """Wait until a run waits for something."""
    while not any(wait["kind"] == kind for wait in (await handle.info()).waiting_on):
        await asyncio.sleep(0.002)


@workflow(name="endings_wait")
async def wait() -> str:
    return await go_on.receive()


async def test_cancel_without_a_reason_is_told_as_a_cancel(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(wait())
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError, match="no reason given") as caught:
            await handle.result()
        assert "by itself" not in str(caught.value)


@workflow(name="endings_attach_beside")
async def attach_beside(shared: str) -> str:
    """Give up attaching, because a start beside it has turned out to be impossible."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(start_child(wait(), id="taken"))
            group.create_task(start_child(wait(), id=shared, on_conflict="attach"))
    except* InstanceAlreadyExistsError:
        pass
    return await go_on.receive()


async def test_instance_of_somebody_else_is_left_alone_when_attaching_to_it_is_given_up(make_app: MakeApp) -> None:
    async with make_app() as app:
        await app.start(wait(), id="taken")
        shared = await app.start(wait(), id="shared")
        parent = await app.start(attach_beside("shared"), id="parent")
        other = await app.start(attach_beside("new"), id="other")
        for handle in (parent, other):
            await waiting(handle)
        with pytest.raises(WorkflowCancelledError):  # a child of its own that nobody has a handle on is taken back
            await (await app.get("new")).result()
        assert await shared.status() == "running"
        await shared.send(go_on, "still there")
        assert await shared.result() == "still there"
        await parent.send(go_on, "on")
        assert await parent.result() == "on"


@pytest.mark.parametrize("is_cancelled_first", [True, False], ids=["cancel first", "message first"])
async def test_run_that_has_not_begun_gets_a_cancel_and_a_message_in_their_order(
    make_app: MakeApp, *, is_cancelled_first: bool
) -> None:
    async with make_app() as app:
        handle = await app.start(wait(), delay=3600)
        await handle.pause()  # so that both are there when it begins
        if is_cancelled_first:
            await handle.cancel("too late")
        await handle.send(go_on, "hello")
        if not is_cancelled_first:
            await handle.cancel("too late")
        await handle.unpause()
        if is_cancelled_first:
            with pytest.raises(WorkflowCancelledError, match="too late"):
                await handle.result()
        else:
            assert await handle.result() == "hello"


@workflow(name="endings_cling")
async def cling(run: int) -> str:
    """Begin anew when it is cancelled; give in the second time."""
    await note(f"run {run}")
    try:
        return await go_on.receive()
    except asyncio.CancelledError:
        if run:
            raise
        recur(cling(run + 1))


@workflow(name="endings_insist")
async def insist_on_cancel() -> str:
    child = await start_child(cling(0), id="child")
    for reason in ("please", "now"):
        await go_on.receive()
        child.cancel(reason)
    try:
        return await child
    except ChildWorkflowFailedError as exc:
        return str(exc)


async def test_child_that_has_recurred_can_be_cancelled_again(make_app: MakeApp) -> None:
    async with make_app() as app:
        parent = await app.start(insist_on_cancel(), id="parent")
        for run in (0, 1):
            while f"run {run}" not in done:
                await asyncio.sleep(0.002)
            await parent.send(go_on, "cancel it")
        assert "child 'child' cancelled: CancelledError: now" in await parent.result()


@activity(name="endings_hang")
async def hang() -> None:
    done.append("hanging")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        done.append("told to stop")


@workflow(name="endings_hanging")
async def hanging() -> None:
    await hang()


@workflow(name="endings_middle")
async def middle() -> None:
    await start_child(hanging(), id="leaf")
    await go_on.receive()


@workflow(name="endings_end_first")
async def end_first() -> str:
    await start_child(middle(), id="middle", on_parent_close="terminate")
    return await go_on.receive()


async def test_nothing_goes_on_of_what_the_end_of_a_parent_has_terminated(make_app: MakeApp) -> None:
    async with make_app() as app:
        parent = await app.start(end_first(), id="parent")
        while "hanging" not in done:
            await asyncio.sleep(0.002)
        leaf = asyncio.ensure_future((await app.get("leaf")).result())
        await parent.send(go_on, "end")
        assert await parent.result() == "end"
        with pytest.raises(WorkflowTerminatedError, match="its parent 'middle' has ended"):
            await leaf
        while "told to stop" not in done:
            await asyncio.sleep(0.002)
