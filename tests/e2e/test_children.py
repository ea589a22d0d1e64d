"""Workflows that start other workflows: awaited, started, attached to; and what their ends mean for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from romancy import (
    App,
    Channel,
    ChildWorkflowFailedError,
    Handle,
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    WorkflowFailedError,
    activity,
    recur,
    start_child,
    workflow,
)

from .conftest import MakeApp
from .faults import Fault, OffsetClock, insist
from .sweep import Scenario, act, begin, events_of, outcome_of, sweep

pytestmark = pytest.mark.anyio

go_on: Channel[str] = Channel("children.go_on", str)
bodies: list[str] = []


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    bodies.clear()


class OutOfStockError(Exception):
    """What a child fails with."""


@activity(name="children_note")
async def note(text: str) -> str:
    bodies.append(text)
    return text


@workflow(name="children_ship")
async def ship(item: str) -> str:
    if item == "gone":
        raise OutOfStockError(item)
    return await note(f"shipped {item}")


@workflow(name="children_wait")
async def wait(name: str) -> str:
    try:
        return await go_on.receive()
    except asyncio.CancelledError:
        await note(f"{name} was cancelled")
        raise


@workflow(name="children_order")
async def order(items: list[str]) -> list[str]:
    return [await ship(item) for item in items]


async def ended(app: App, id: str) -> str:
    return await outcome_of(await app.get(id))


async def parked(app: App, id: str, kind: str = "receive") -> Handle[Any]:
    """Wait until an instance exists and waits for something."""
    while True:
        with suppress(InstanceNotFoundError):
            handle = await app.get(id)
            info = await handle.info()
            if any(wait["kind"] == kind for wait in info.waiting_on):
                return handle
        await asyncio.sleep(0.002)


async def test_child_is_awaited_for_its_result(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(order(["tea", "milk"]), id="order")
        assert await handle.result() == ["shipped tea", "shipped milk"]
        assert [(e.kind, e.activity_id) for e in await handle.history()] == [
            ("child_started", "1:children_ship"),
            ("child_closed", "1:children_ship"),
            ("child_started", "2:children_ship"),
            ("child_closed", "2:children_ship"),
            ("run_completed", None),
        ]
        ids = [info.id for info in await app.list() if info.workflow == "children_ship"]
        assert [id.partition("~")[0] for id in ids] == ["order/1:children_ship", "order/2:children_ship"]


@workflow(name="children_catch")
async def catch(item: str) -> list[Any]:
    try:
        return [await ship(item)]
    except ChildWorkflowFailedError as exc:
        cause = exc.__cause__
        return [type(cause).__name__, str(cause), exc.child_id, exc.status, str(exc)]


async def test_failure_of_a_child_carries_its_cause(make_app: MakeApp) -> None:
    async with make_app() as app:
        name, text, child_id, status, told = await app.run(catch("gone"), id="catch")
    assert (name, text) == ("OutOfStockError", "gone")
    assert (child_id.partition("~")[0], status) == ("catch/1:children_ship", "failed")
    assert "OutOfStockError: gone" in told


@workflow(name="children_uncaught")
async def uncaught() -> str:
    return await ship("gone")


async def test_cause_chain_goes_on_through_parents(make_app: MakeApp) -> None:
    async with make_app() as app:
        with pytest.raises(WorkflowFailedError) as caught:
            await app.run(uncaught())
        failure = caught.value.failure
        assert failure is not None
        assert failure.type == "romancy.errors:ChildWorkflowFailedError"
        assert failure.cause is not None
        assert (failure.cause.type.rpartition(":")[2], failure.cause.message) == ("OutOfStockError", "gone")


@workflow(name="children_background")
async def background(policy: Any, end: str) -> str:
    child = await start_child(wait("child"), id="child", on_parent_close=policy)
    assert child.id == "child"
    assert not child.done()
    if end == "fail":
        raise OutOfStockError
    if end == "wait":
        return await child
    return "done"


@pytest.mark.parametrize("end", ["return", "fail", "terminate"])
@pytest.mark.parametrize("policy", ["cancel", "terminate", "abandon"])
async def test_policy_says_what_becomes_of_a_child_whose_parent_ends(make_app: MakeApp, policy: Any, end: str) -> None:
    async with make_app() as app:
        parent = await app.start(background(policy, "wait" if end == "terminate" else end), id="parent")
        if end == "terminate":
            await parked(app, "child")
            await parent.terminate(recursive=False)
        await outcome_of(parent)
        if policy == "abandon":
            await app.send(go_on, "alone", to="child")
            assert await ended(app, "child") == "'alone'"
        else:
            error = "WorkflowCancelledError" if policy == "cancel" else "WorkflowTerminatedError"
            assert (await ended(app, "child")).startswith(error)
            # A child that was cancelled before its first turn does not begin.
            assert bodies in ([], ["child was cancelled"]) if policy == "cancel" else not bodies


@workflow(name="children_stubborn")
async def stubborn() -> str:
    """Go on in spite of a cancel."""
    with suppress(asyncio.CancelledError):
        await go_on.receive()
    return await go_on.receive()


@workflow(name="children_middle")
async def middle() -> str:
    await start_child(stubborn(), id="leaf")
    return "ended"


@workflow(name="children_top")
async def top() -> str:
    return f"{await middle()}, {await go_on.receive()}"


async def test_termination_is_passed_down_through_children_that_have_ended(make_app: MakeApp) -> None:
    async with make_app() as app:
        root = await app.start(top(), id="root")
        await parked(app, "root")  # its child has ended
        leaf = await parked(app, "leaf")
        while "cancel_requested" not in [event.kind for event in await leaf.history()]:
            await asyncio.sleep(0.002)
        await root.terminate("enough")
        assert "enough" in await ended(app, "root")
        assert (await ended(app, "leaf")).startswith("WorkflowTerminatedError")
        with pytest.raises(InstanceClosedError):
            await root.terminate()


async def test_terminate_reaches_children_of_an_instance_that_has_ended(make_app: MakeApp) -> None:
    async with make_app() as app:
        await app.run(middle(), id="middle")
        leaf = await parked(app, "leaf")
        with pytest.raises(InstanceClosedError):
            await app.terminate("middle", recursive=False)
        await app.terminate("middle")
        assert (await outcome_of(leaf)).startswith("WorkflowTerminatedError")


@workflow(name="children_two_ways")
async def two_ways(way: str) -> str:
    match way:
        case "timeout":
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):  # time enough to be seen waiting
                    await start_and_wait()
        case "task":
            task = asyncio.ensure_future(wait("child"))
            await go_on.receive()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        case _:
            child = await start_child(wait("child"), id="child")
            await go_on.receive()
            child.cancel("not needed")
            try:
                await child
            except ChildWorkflowFailedError as exc:
                return exc.status
    return await go_on.receive()


async def start_and_wait() -> str:
    return await wait("child")


@pytest.mark.parametrize("way", ["timeout", "task", "handle"])
async def test_child_whose_wait_is_cancelled_is_cancelled(make_app: MakeApp, way: str) -> None:
    async with make_app() as app:
        parent = await app.start(two_ways(way), id="parent")
        while not (ids := [info.id for info in await app.list() if info.workflow == "children_wait"]):
            await asyncio.sleep(0.002)
        child = await parked(app, ids[0])
        if way != "timeout":
            await parent.send(go_on, "cancel it")
        assert (await outcome_of(child)).startswith("WorkflowCancelledError")
        assert bodies == ["child was cancelled"]
        if way != "handle":
            await parent.send(go_on, "on")
        assert await parent.result() == ("cancelled" if way == "handle" else "on")


@workflow(name="children_cancel_at_once")
async def cancel_at_once() -> str:
    task = asyncio.ensure_future(wait("child"))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return await note("went on")


async def test_child_that_is_cancelled_in_the_turn_that_starts_it_is_not_started(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(cancel_at_once(), id="parent")
        assert await handle.result() == "went on"
        assert [event.kind for event in await handle.history()] == ["activity_completed", "run_completed"]
        assert [info.id for info in await app.list()] == ["parent"]


async def test_cancel_of_a_parent_reaches_the_child_that_it_awaits(make_app: MakeApp) -> None:
    async with make_app() as app:
        parent = await app.start(await_child(), id="parent")
        await parked(app, "parent", "child")
        (child_id,) = [info.id for info in await app.list() if info.workflow == "children_wait"]
        await parked(app, child_id)
        await parent.cancel("enough")
        assert (await outcome_of(parent)).startswith("WorkflowCancelledError")
        assert (await ended(app, child_id)).startswith("WorkflowCancelledError")
        assert bodies == ["child was cancelled"]


@workflow(name="children_await_child")
async def await_child() -> str:
    return await wait("child")


@workflow(name="children_attach")
async def attach() -> str:
    child = await start_child(wait("shared"), id="shared", on_conflict="attach", on_parent_close="abandon")
    return await child


async def test_two_parents_await_the_same_child(make_app: MakeApp) -> None:
    async with make_app() as app:
        parents = [await app.start(attach(), id=f"parent-{n}") for n in range(2)]
        for parent in parents:
            await parked(app, parent.id, "child")
        await parked(app, "shared")
        await app.send(go_on, "for both", to="shared")
        assert [await parent.result() for parent in parents] == ["for both", "for both"]
        late = await app.run(attach(), id="parent-3")  # it has ended by now: its end is told at once
        assert late == "for both"
        assert len([info for info in await app.list() if info.workflow == "children_wait"]) == 1


@workflow(name="children_share")
async def share() -> str:
    return await (await start_child(wait("shared"), id="shared", on_conflict="attach"))


async def test_attached_child_is_left_alone_by_those_that_have_not_started_it(make_app: MakeApp) -> None:
    async with make_app() as app:
        starter = await app.start(share(), id="starter")
        await parked(app, "starter", "child")
        attached = await app.start(share(), id="attached")
        await parked(app, "attached", "child")
        shared = await parked(app, "shared")
        await attached.terminate()
        assert await shared.status() == "running"
        await shared.send(go_on, "on")
        assert await starter.result() == "on"


@workflow(name="children_taken")
async def taken(id: str) -> str:
    try:
        await start_child(ship("tea"), id=id)
    except InstanceAlreadyExistsError as exc:
        return str(exc)
    return "started"


async def test_taken_id_is_an_error_that_workflow_code_can_catch(make_app: MakeApp) -> None:
    async with make_app() as app:
        await app.run(ship("milk"), id="there")
        handle = await app.start(taken("there"), id="parent")
        assert "child 'there' of workflow 'children_ship' can't be started: the id is taken" in await handle.result()
        assert [event.kind for event in await handle.history()] == ["child_started", "run_completed"]
        assert "the id is taken" in await app.run(taken("self"), id="self")


@workflow(name="children_again")
async def again() -> str:
    return await wait("child")


async def test_parent_started_anew_ignores_the_old_childs_end(make_app: MakeApp) -> None:
    async with make_app() as app:
        old = await app.start(again(), id="parent")
        await parked(app, "parent", "child")
        (old_child,) = [info.id for info in await app.list() if info.workflow == "children_wait"]
        await parked(app, old_child)
        await old.terminate(recursive=False)
        await app.purge("parent", recursive=False)
        new = await app.start(again(), id="parent")
        await parked(app, "parent", "child")
        (new_child,) = {info.id for info in await app.list() if info.workflow == "children_wait"} - {old_child}
        await parked(app, new_child)
        with suppress(InstanceClosedError):  # by the policy it may be cancelled already
            await app.send(go_on, "old", to=old_child)
        await ended(app, old_child)
        await app.send(go_on, "new", to=new_child)
        assert await new.result() == "new"
        assert [event.kind for event in await new.history()] == ["child_started", "child_closed", "run_completed"]


@workflow(name="children_recur")
async def recur_with_child(number: int) -> str:
    if number == 0:
        await start_child(wait("child"), id="child")
        recur(recur_with_child(1))
    return await go_on.receive()


async def test_child_of_an_earlier_run_stays_and_its_end_is_ignored(make_app: MakeApp) -> None:
    async with make_app() as app:
        parent = await app.start(recur_with_child(0), id="parent")
        await parked(app, "child")
        await parked(app, "parent")
        await app.send(go_on, "ended", to="child")
        assert await ended(app, "child") == "'ended'"
        await parent.send(go_on, "on")
        assert await parent.result() == "on"
        assert [event.kind for event in await parent.history()] == ["message_received", "run_completed"]
        assert (await parent.info()).unread == 0


@workflow(name="children_nobody")
async def served_by_nobody() -> None: ...


@workflow(name="children_start_nobody")
async def start_nobody() -> str:
    task = asyncio.ensure_future(served_by_nobody())
    with suppress(asyncio.CancelledError):
        await go_on.receive()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return "caught"


async def test_cancel_while_a_child_waits_that_nobody_serves(make_app: MakeApp) -> None:
    async with make_app(workflows=[start_nobody]) as app:
        parent = await app.start(start_nobody(), id="parent")
        await parked(app, "parent")
        await parent.cancel()
        assert await outcome_of(parent) == "'caught'"
        (child,) = [info for info in await app.list() if info.workflow == "children_nobody"]
        assert child.status == "pending"
        assert child.unread  # whoever serves it hears of the cancel first


@workflow(name="children_both")
async def both() -> str:
    try:
        return await wait("child")
    except asyncio.CancelledError:
        return "cancelled"


async def test_cancel_and_the_childs_end_in_one_batch(make_app: MakeApp) -> None:
    """What came first decides; the other is not lost: the cancel is still raised where the run waits next."""
    async with make_app() as app:
        parent = await app.start(both(), id="parent")
        await parked(app, "parent", "child")
        (child_id,) = [info.id for info in await app.list() if info.workflow == "children_wait"]
        await parked(app, child_id)
        await parent.pause()
        await app.send(go_on, "result", to=child_id)
        assert await ended(app, child_id) == "'result'"
        await parent.cancel()
        await parent.unpause()
        assert await outcome_of(parent) == "'result'"
        kinds = [event.kind for event in await parent.history()]
    assert kinds == ["child_started", "child_closed", "run_completed"]


ABANDONED = ("child_closed", "4:children_sweep_waiting")


async def play_tree(app: App) -> list[Any]:
    await begin(app, sweep_parent, "parent")
    while "abandoned" not in [info.id for info in await insist(app.list)]:
        await asyncio.sleep(0.002)
    ids = ["parent", "started", "abandoned"]
    handles = [await insist(partial(app.get, id)) for id in ids]
    for id in ids[1:]:
        await insist(partial(app.send, go_on, "on", to=id, message_id=f"on {id}"))
    told = [[await outcome_of(handle), await events_of(handle)] for handle in handles]
    # The end of the one that nobody waits for may come before the parent's own, or not.
    return [[outcome, [e for e in events if e[:2] != ABANDONED]] for outcome, events in told]


@activity(name="children_effect")
async def effect(text: str) -> str:
    act(text)
    return text


@workflow(name="children_sweep_leaf")
async def sweep_leaf(text: str) -> str:
    if text == "fails":
        raise OutOfStockError(text)
    return await effect(text)


@workflow(name="children_sweep_waiting")
async def sweep_waiting(text: str) -> str:
    message = await go_on.receive()
    return await effect(f"{text} {message}")


@workflow(name="children_sweep_parent")
async def sweep_parent() -> list[str]:
    started = await start_child(sweep_waiting("started"), id="started")
    await start_child(sweep_waiting("abandoned"), id="abandoned", on_parent_close="abandon")
    awaited = await asyncio.gather(sweep_leaf("one"), sweep_leaf("two"))
    try:
        await sweep_leaf("fails")
    except ChildWorkflowFailedError as exc:
        return [*awaited, exc.status, await started]
    raise AssertionError


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_children_run_once_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([sweep_parent, sweep_leaf, sweep_waiting], play_tree)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=20)


@workflow(name="children_sweep_shared")
async def sweep_shared() -> str:
    """Await a child that another parent awaits too, once its id has turned out to be taken."""
    try:
        await start_child(sweep_waiting("again"), id="shared")
    except InstanceAlreadyExistsError:
        child = await start_child(sweep_waiting("again"), id="shared", on_conflict="attach")
        return await child
    return "started"


async def play_shared(app: App) -> list[Any]:
    await begin(app, lambda: sweep_waiting("shared"), "shared")
    parents = [await begin(app, sweep_shared, f"parent-{number}") for number in (1, 2)]
    for parent in parents:
        while [event.kind for event in await insist(parent.history)].count("child_started") < 2:
            await asyncio.sleep(0.002)
    with suppress(InstanceClosedError):  # an earlier process may have come further than it could say
        await insist(partial(app.send, go_on, "on", to="shared", message_id="on"))
    return [[await outcome_of(parent), await events_of(parent)] for parent in parents]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_both_parents_hear_of_a_shared_child_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool
) -> None:
    scenario = Scenario([sweep_shared, sweep_waiting], play_shared)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=15)


async def play_purge(app: App) -> list[Any]:
    """Purge a parent whose child goes on, start it anew, and let the old child end first."""
    old = await begin(app, again, "parent")
    ids = await children_of(app, 1)
    if len(ids) == 1:
        with suppress(InstanceClosedError):
            await insist(partial(old.terminate, recursive=False))
        with suppress(InstanceNotFoundError):  # it is gone already where the acknowledgement was lost
            await insist(partial(app.purge, "parent", recursive=False))
        await begin(app, again, "parent")
        ids = await children_of(app, 2)
    for child_id in ids:
        with suppress(InstanceClosedError):
            await insist(partial(app.send, go_on, "new", to=child_id, message_id="m"))
    new = await insist(partial(app.get, "parent"))
    return [await outcome_of(new), await events_of(new)]


async def children_of(app: App, count: int) -> list[str]:
    """Wait for so many children at least, and return their ids in the order of their starts."""
    while len(ids := [info.id for info in await insist(app.list) if info.workflow == "children_wait"]) < count:
        await asyncio.sleep(0.002)
    return ids


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
async def test_parent_started_anew_hears_of_its_own_child_alone_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault
) -> None:
    scenario = Scenario([again, wait], play_purge)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=False, at_least=10)


def refused(make: Callable[[], Any], error: type[Exception], match: str) -> Coroutine[Any, Any, None]:
    async def check() -> None:
        with pytest.raises(error, match=match):
            await make()

    return check()


@workflow(name="children_refusals")
async def refusals() -> str:
    await refused(lambda: start_child(note("x")), TypeError, "needs the call of a workflow")
    await refused(lambda: start_child(ship("x"), on_parent_close="kill"), ValueError, "use one of 'cancel'")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await refused(lambda: start_child(ship("x"), id=""), ValueError, "id")
    return "refused"


async def test_bad_starts_are_refused_where_they_are_made(make_app: MakeApp) -> None:
    async with make_app() as app:
        assert await app.run(refusals()) == "refused"
        assert len(await app.list()) == 1


@workflow(name="purged_family")
async def purged_family(depth: int) -> int:
    return 1 + await purged_family(depth - 1) if depth else 0


async def test_purge_deletes_a_family_and_tells_how_many(make_app: MakeApp) -> None:
    async with make_app() as app:
        await app.run(purged_family(3), id="one")
        await app.run(purged_family(1), id="two")
        assert await app.purge("one") == 4
        assert await app.purge("two", recursive=False) == 1
        (left,) = await app.list()
        assert left.id.startswith("two/")
