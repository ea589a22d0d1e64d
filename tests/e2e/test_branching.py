"""Instances that go on in another way: retried where they failed, rerun from an activity."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from romancy import (
    App,
    Channel,
    ChildWorkflowFailedError,
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
    NonRetryableError,
    WorkflowBlockedError,
    WorkflowFailedError,
    activity,
    activity_info,
    recur,
    saga,
    side_effect,
    start_child,
    uuid4,
    workflow,
    workflow_info,
)
from romancy.client.handle import Handle

from .conftest import MakeApp
from .faults import Fault, OffsetClock, insist
from .sweep import Scenario, act, begin, sweep

pytestmark = pytest.mark.anyio

calls: Counter[str] = Counter()
keys: dict[str, list[str]] = {}
broken: set[str] = set()
news = Channel("branching_news", str)
pings = Channel("branching_pings", str)


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    calls.clear()
    keys.clear()
    broken.clear()


@activity
async def branch_do(what: str, detail: str = "") -> str:
    calls[what] += 1
    keys.setdefault(what, []).append(activity_info().idempotency_key)
    if what in broken:
        raise NonRetryableError(f"{what} is broken")
    return f"{what}{detail}"


@activity
async def branch_undoable(what: str) -> str:
    calls[what] += 1
    keys.setdefault(what, []).append(activity_info().idempotency_key)
    return what


@branch_undoable.compensation
async def branch_undo(result: str | None, what: str) -> None:
    calls[f"undo {what}"] += 1


@workflow
async def branch_five() -> list[str]:
    number = str(uuid4())
    mark = side_effect(lambda: str(calls["side effect"]))
    done = [await branch_do(what) for what in ("a", "b", "c", "d", "e")]
    return [*done, number, mark, str(uuid4())]


async def test_rerun_from_the_third_of_five_activities_leaves_the_first_two_and_the_source(make_app: MakeApp) -> None:
    async with make_app() as app:
        source = await app.start(branch_five(), id="source")
        first = await source.result()
        before = (await source.info(), await source.history())
        calls["side effect"] = 7
        handle = await app.rerun("source", from_activity="4:branch_do", input=branch_do("c", " anew"), new_id="again")
        second = await handle.result()
        assert second[:5] == ["a", "b", "c anew", "d", "e"]
        assert second[5:7] == first[5:7]
        assert second[7] != first[7]
        assert (await source.info(), await source.history()) == before
        assert handle.id == "again"
    assert calls == {"a": 1, "b": 1, "c": 2, "d": 2, "e": 2, "side effect": 7}
    assert all(len(set(used)) == len(used) for used in keys.values())


async def test_rerun_without_input_repeats_and_survives_being_evicted_and_rerun_itself(make_app: MakeApp) -> None:
    async with make_app() as app:
        first = await (await app.start(branch_five(), id="source")).result()
        again = await app.rerun("source", from_activity="4:branch_do", new_id="again")
        second = await again.result()
        third = await (await again.rerun(from_activity="6:branch_do")).result()
        assert first[:7] == second[:7] == third[:7]
        assert len({first[7], second[7], third[7]}) == 3
        kinds = [event.kind for event in await again.history()]
        assert kinds[:1] == ["run_copied"]
        assert kinds[4:6] == ["run_resumed", "activity_completed"]
    assert calls == {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3}


async def test_rerun_from_the_beginning_takes_new_input(make_app: MakeApp) -> None:
    async with make_app() as app:
        source = await app.start(branch_one("x"), id="source", tags={"customer": "7"})
        assert await source.result() == "x"
        assert await (await source.rerun()).result() == "x"
        handle = await source.rerun(input=branch_one("y"))
        assert await handle.result() == "y"
        assert (await handle.info()).tags == {"customer": "7"}
        assert await (await source.rerun(input={"what": "z"}, tags={})).result() == "z"
    assert calls == {"x": 2, "y": 1, "z": 1}


@workflow
async def branch_one(what: str) -> str:
    return await branch_do(what)


@workflow
async def branch_timed() -> str:
    await branch_do("before")
    await asyncio.sleep(0.01)
    return await branch_do("after")


async def test_rerun_from_a_timer_goes_on_behind_it(make_app: MakeApp) -> None:
    async with make_app() as app:
        source = await app.start(branch_timed(), id="source")
        await source.result()
        timer = next(event.activity_id for event in await source.history() if event.kind == "timer_fired")
        assert await (await source.rerun(from_activity=timer)).result() == "after"
    assert calls == {"before": 1, "after": 2}


@workflow
async def branch_parent() -> list[str]:
    before = await branch_do("before")
    other = await start_child(branch_one("other"), on_parent_close="abandon")
    child = await branch_one("child")
    return [before, child, await other, workflow_info().instance_id]


async def test_rerun_from_a_child_starts_another_one(make_app: MakeApp) -> None:
    async with make_app() as app:
        source = await app.start(branch_parent(), id="source")
        assert await source.result() == ["before", "child", "other", "source"]
        handle = await source.rerun(from_activity="4:branch_one", input=branch_one("instead"), new_id="again")
        assert await handle.result() == ["before", "instead", "other", "again"]
        assert len(await app.list(id_prefix="source/")) == 2
        assert len(await app.list(id_prefix="again/")) == 1
        handle = await source.rerun(from_activity="3:branch_one", input=branch_one("for other"))
        assert (await handle.result())[:3] == ["before", "child", "for other"]
    assert calls == {"before": 1, "other": 1, "child": 2, "instead": 1, "for other": 1}


@workflow
async def branch_waiting() -> list[str]:
    child = await start_child(branch_listening("child"))
    first = await branch_do("a")
    second = await branch_do("b")
    return [first, second, await child]


@workflow
async def branch_listening(name: str) -> str:
    return f"{name} {await pings.receive()}"


async def test_rerun_hears_of_the_end_of_a_child_that_is_under_way(make_app: MakeApp) -> None:
    async with make_app() as app:
        source = await app.start(branch_waiting(), id="source")
        while calls["b"] == 0:
            await asyncio.sleep(0.01)
        while len(await source.history()) < 3:
            await asyncio.sleep(0.01)
        handle = await source.rerun(from_activity="4:branch_do", new_id="again")
        while calls["b"] < 2:
            await asyncio.sleep(0.01)
        (child,) = await app.list(id_prefix="source/")
        await app.send(pings, "heard", to=child.id)
        assert await source.result() == await handle.result() == ["a", "b", "child heard"]
    assert calls == {"a": 1, "b": 2}


@workflow
async def branch_reader() -> list[str]:
    got = [await pings.receive()]
    await branch_do("between")
    got.append(await pings.receive())
    async with news.subscribe() as subscription:
        await branch_do("subscribed")
        got.append(await subscription.receive())
    return got


async def test_rerun_receives_again_what_came_later_and_what_is_published_from_then_on(make_app: MakeApp) -> None:
    async with make_app() as app:
        source = await app.start(branch_reader(), id="source")
        for text in ("one", "two"):
            await app.send(pings, text, to="source")
        while calls["subscribed"] == 0:
            await asyncio.sleep(0.01)
        while (await source.history())[-1].activity_id != "5:branch_do":
            await asyncio.sleep(0.01)
        from_receive = await source.rerun(from_activity="3:branching_pings", new_id="from receive")
        from_later = await source.rerun(from_activity="5:branch_do", new_id="from later")
        await app.send(pings, "three", to="from receive")
        while calls["subscribed"] < 3:
            await asyncio.sleep(0.01)
        while "6:branching_news" not in str([(await each.info()).waiting_on for each in (from_receive, from_later)]):
            await asyncio.sleep(0.01)
        await app.publish(news, "news")
        assert await source.result() == ["one", "two", "news"]
        assert await from_receive.result() == ["one", "three", "news"]
        assert await from_later.result() == ["one", "two", "news"]
    assert calls == {"between": 1, "subscribed": 3}


@workflow
async def branch_sending(to: str) -> None:
    await asyncio.gather(pings.send("first", to=to), branch_do("x"))
    await pings.send("second", to=to)


@workflow
async def branch_collecting(count: int) -> list[str]:
    return [await pings.receive() for _ in range(count)]


async def test_retry_sends_nothing_twice_and_rerun_sends_anew(make_app: MakeApp) -> None:
    broken.add("x")
    async with make_app() as app:
        sink = await app.start(branch_collecting(4), id="sink")
        source = await app.start(branch_sending("sink"), id="source")
        with pytest.raises(WorkflowFailedError):
            await source.result()
        broken.clear()
        await source.retry()
        await source.result()
        await (await source.rerun(from_activity="1:branching_pings")).result()
        assert await sink.result() == ["first", "second", "first", "second"]


@workflow
async def branch_fragile(name: str) -> list[str]:
    first = await branch_do(f"{name} first")
    try:
        second = await branch_do(f"{name} second")
    except NonRetryableError:
        await branch_do(f"{name} excuse")
        raise
    return [first, second, await branch_do(f"{name} third")]


async def test_retry_of_a_failed_run_goes_on_where_it_failed(make_app: MakeApp) -> None:
    broken.add("x second")
    async with make_app() as app:
        handle = await app.start(branch_fragile("x"), id="one")
        for _ in range(2):
            with pytest.raises(WorkflowFailedError, match="x second is broken"):
                await handle.result()
            await handle.retry()
        with pytest.raises(WorkflowFailedError, match="x second is broken"):
            await handle.result()
        broken.clear()
        await app.retry("one")
        assert await handle.result() == ["x first", "x second", "x third"]
        assert await handle.status() == "completed"
        with pytest.raises(InstanceClosedError, match="'one' can't be retried: it has not failed, it is completed"):
            await handle.retry()
    assert calls == {"x first": 1, "x second": 4, "x excuse": 3, "x third": 1}
    assert len(set(keys["x second"])) == 1
    assert len(set(keys["x excuse"])) == 3
    assert not set(keys["x excuse"]) & set(keys["x third"])


@workflow
async def branch_code() -> str:
    done = await branch_do("a")
    if "code" in broken:
        msg = "the code does not like it"
        raise ValueError(msg)
    return done


async def test_retry_of_a_run_whose_code_failed_computes_its_last_turn_again(make_app: MakeApp) -> None:
    broken.add("code")
    async with make_app() as app:
        handle = await app.start(branch_code(), id="one")
        with pytest.raises(WorkflowFailedError, match="does not like it"):
            await handle.result()
        await handle.retry()
        with pytest.raises(WorkflowFailedError, match="does not like it"):
            await handle.result()
        broken.clear()
        await handle.retry()
        assert await handle.result() == "a"
    assert calls == {"a": 1}


@workflow
async def branch_at_once() -> str:
    if "code" in broken:
        msg = "the code does not like it"
        raise ValueError(msg)
    return await branch_do("a")


async def test_retry_of_a_run_that_failed_in_its_first_turn(make_app: MakeApp) -> None:
    broken.add("code")
    async with make_app() as app:
        handle = await app.start(branch_at_once(), id="one")
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        broken.clear()
        await handle.retry()
        assert await handle.result() == "a"


@workflow
async def branch_family() -> list[Any]:
    return [await branch_do("parent"), await branch_fragile("child")]


async def test_retry_of_a_parent_retries_the_child_that_made_it_fail(make_app: MakeApp) -> None:
    broken.add("child second")
    async with make_app() as app:
        handle = await app.start(branch_family(), id="one")
        with pytest.raises(WorkflowFailedError, match="child second is broken"):
            await handle.result()
        (child,) = await app.list(id_prefix="one/")
        broken.clear()
        await handle.retry()
        assert await handle.result() == ["parent", ["child first", "child second", "child third"]]
        assert [info.id for info in await app.list()] == ["one", child.id]
    assert calls == {"parent": 1, "child first": 1, "child second": 2, "child excuse": 1, "child third": 1}


@workflow
async def branch_patient() -> str:
    try:
        await branch_fragile("child")
    except ChildWorkflowFailedError:
        return await pings.receive()
    return "well"


async def test_retry_of_a_child_whose_parent_goes_on_is_refused(make_app: MakeApp) -> None:
    broken.add("child second")
    async with make_app() as app:
        handle = await app.start(branch_patient(), id="one")
        while not any(info.status == "failed" for info in await app.list(id_prefix="one/")):
            await asyncio.sleep(0.01)
        while not (await handle.info()).waiting_on or "channel" not in (await handle.info()).waiting_on[0]:
            await asyncio.sleep(0.01)
        (child,) = await app.list(id_prefix="one/")
        before = await (await app.get(child.id)).history()
        with pytest.raises(InstanceRunningError, match="its parent 'one' goes on and knows that it has failed"):
            await app.retry(child.id)
        assert await (await app.get(child.id)).history() == before
        await app.send(pings, "on", to="one")
        assert await handle.result() == "on"
        broken.clear()
        await app.retry(child.id)
        assert await (await app.get(child.id)).result() == ["child first", "child second", "child third"]


@workflow
async def branch_saga() -> list[str]:
    done = [await branch_undoable("reserve"), await branch_undoable("charge")]
    return [*done, await branch_do("ship")]


async def test_what_was_undone_is_neither_retried_nor_built_upon(make_app: MakeApp) -> None:
    broken.add("ship")
    async with make_app() as app:
        handle = await app.start(branch_saga(), id="one")
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        before = await handle.history()
        refusal = "has undone 2:branch_undoable, 1:branch_undoable, and can't go on"
        with pytest.raises(InstanceClosedError, match=refusal) as refused:
            await handle.retry()
        assert "rerun it from '1:branch_undoable'" in str(refused.value)
        with pytest.raises(ValueError, match=refusal):
            await handle.rerun(from_activity="3:branch_do")
        with pytest.raises(ValueError, match="has undone 1:branch_undoable, and can't go on from '2:branch_undoable'"):
            await handle.rerun(from_activity="2:branch_undoable")
        broken.clear()
        again = await handle.rerun(from_activity="1:branch_undoable")
        assert await again.result() == ["reserve", "charge", "ship"]
        assert await handle.history() == before
    assert calls == {"reserve": 2, "charge": 2, "undo reserve": 1, "undo charge": 1, "ship": 2}
    assert len(set(keys["reserve"])) == 2


@workflow
async def branch_block() -> str:
    try:
        async with saga():
            await branch_undoable("tried")
            await branch_do("ship")
    except NonRetryableError:
        pass
    return await branch_do("after")


async def test_what_a_block_has_undone_and_the_code_knows_of_is_in_no_way(make_app: MakeApp) -> None:
    broken.update({"ship", "after"})
    async with make_app() as app:
        handle = await app.start(branch_block(), id="one")
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        broken.discard("after")
        await handle.retry()
        assert await handle.result() == "after"
    assert calls == {"tried": 1, "ship": 1, "undo tried": 1, "after": 2}


@workflow
async def branch_block_then_code() -> str:
    try:
        async with saga():
            await branch_undoable("tried")
            await branch_do("ship")
    except NonRetryableError:
        pass
    done = await branch_do("after")
    if "code" in broken:
        raise ValueError("the code does not like it")
    return done


async def test_code_that_fails_after_a_block_has_undone_its_own_is_retried(make_app: MakeApp) -> None:
    broken.update({"ship", "code"})
    async with make_app() as app:
        handle = await app.start(branch_block_then_code(), id="one")
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        broken.discard("code")
        await handle.retry()
        assert await handle.result() == "after"
    assert calls == {"tried": 1, "ship": 1, "undo tried": 1, "after": 1}


@workflow
async def branch_saga_code() -> str:
    done = await branch_undoable("reserve")
    if "code" in broken:
        raise ValueError("the code does not like it")
    return done


async def test_code_that_fails_and_is_undone_is_not_retried(make_app: MakeApp) -> None:
    broken.add("code")
    async with make_app() as app:
        handle = await app.start(branch_saga_code(), id="one")
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        with pytest.raises(InstanceClosedError, match="has undone 1:branch_undoable"):
            await handle.retry()


@workflow
async def branch_receiving() -> list[str]:
    got = [await pings.receive()]
    try:
        await branch_do("x")
    except NonRetryableError:
        await pings.receive()
        raise
    got.append(await pings.receive())
    return got


async def test_what_was_received_after_the_failure_is_unread_again(make_app: MakeApp) -> None:
    broken.add("x")
    async with make_app() as app:
        handle = await app.start(branch_receiving(), id="one")
        for text in ("one", "two"):
            await app.send(pings, text, to="one", message_id=text)
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        broken.clear()
        await handle.retry()
        assert await handle.result() == ["one", "two"]


@workflow
async def branch_group() -> list[str]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(branch_do(what)) for what in ("a", "b", "c")]
    except BaseExceptionGroup as exc:
        raise RuntimeError("some have failed") from exc
    return [task.result() for task in tasks]


async def test_retry_goes_back_before_the_first_of_several_failures(make_app: MakeApp) -> None:
    broken.update("ab")
    async with make_app() as app:
        handle = await app.start(branch_group(), id="one")
        with pytest.raises(WorkflowFailedError, match="some have failed"):
            await handle.result()
        broken.clear()
        await handle.retry()
        assert await handle.result() == ["a", "b", "c"]
    assert calls["a"] + calls["b"] >= 3
    assert all(len(set(used)) == 1 for used in keys.values())


@workflow
async def branch_buggy() -> str:
    done = await branch_do("a")
    if "code" in broken:
        raise TypeError("a bug")
    return done


async def test_retry_of_a_blocked_run_tries_it_with_the_same_build(make_app: MakeApp) -> None:
    broken.add("code")
    async with make_app() as app:
        handle = await app.start(branch_buggy(), id="one")
        with pytest.raises(WorkflowBlockedError, match="a bug"):
            await handle.result()
        broken.clear()
        await handle.retry()
        assert await handle.result(wait_blocked=True) == "a"
    assert calls == {"a": 1}


@workflow
async def branch_recurring(left: int) -> str:
    await branch_do(f"run {left}")
    await branch_do("x")
    if left:
        recur(branch_recurring(left - 1))
    return await branch_do("last")


async def test_later_runs_are_rerun_and_retried_too(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(branch_recurring(2), id="one")
        assert await handle.result() == "last"
        again = await handle.rerun(from_activity="3:branch_do")
        assert await again.result() == "last"
        broken.add("x")
        again = await handle.rerun(from_activity="2:branch_do", input={"what": "x"})
        with pytest.raises(WorkflowFailedError):
            await again.result()
        broken.clear()
        await again.retry()
        assert await again.result() == "last"
    assert calls == {"run 2": 1, "run 1": 1, "run 0": 1, "x": 5, "last": 3}


async def test_what_can_not_be_rerun_is_refused_and_nothing_is_stored(make_app: MakeApp) -> None:
    async with make_app() as app:
        source = await app.start(branch_five(), id="source")
        await source.result()
        with pytest.raises(ValueError, match="nothing under '9:nope'; it has recorded 2:branch_do, 3:branch_do"):
            await source.rerun(from_activity="9:nope")
        marker = next(e.activity_id for e in await source.history() if e.kind == "side_effect")
        with pytest.raises(ValueError, match="part of what comes before it"):
            await source.rerun(from_activity=marker)
        with pytest.raises(TypeError, match="another definition than 'branch_do'"):
            await source.rerun(from_activity="3:branch_do", input=branch_undoable("x"))
        with pytest.raises(Exception, match="does not fit"):
            await source.rerun(from_activity="3:branch_do", input={"nonsense": 1})
        with pytest.raises(InstanceAlreadyExistsError, match="'source' exists already"):
            await source.rerun(from_activity="3:branch_do", new_id="source")
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await app.rerun("nobody")
        with pytest.raises(InstanceNotFoundError, match="'nobody'"):
            await app.retry("nobody")
        waiting = await app.start(branch_listening("x"), id="waiting")
        with pytest.raises(InstanceRunningError, match="goes on by itself"):
            await waiting.retry()
        await waiting.cancel()
        with pytest.raises(WorkflowFailedError):
            await waiting.result()
        with pytest.raises(InstanceClosedError, match="it is cancelled: rerun it"):
            await waiting.retry()
        assert len(await app.list()) == 2
    assert calls == dict.fromkeys("abcde", 1)


@workflow
async def branch_limited() -> str:
    await branch_do("x")
    await asyncio.sleep(0.05)
    return "in time"


async def test_retry_lifts_a_time_limit_that_has_passed(make_app: MakeApp) -> None:
    broken.add("x")
    async with make_app() as app:
        handle = await app.start(branch_limited(), id="one", timeout=timedelta(seconds=0.3))
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        await asyncio.sleep(0.35)
        broken.clear()
        await handle.retry()
        assert await handle.result() == "in time"


async def test_two_retries_at_once_are_one(make_app: MakeApp) -> None:
    broken.add("x second")
    async with make_app() as app:
        handle = await app.start(branch_fragile("x"), id="one")
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        broken.clear()
        results = await asyncio.gather(*(app.retry("one") for _ in range(5)), return_exceptions=True)
        assert await handle.result() == ["x first", "x second", "x third"]
    assert results.count(None) >= 1
    assert all(isinstance(each, InstanceRunningError | InstanceClosedError) for each in results if each is not None)
    assert calls["x third"] == 1


# -- whichever storage call fails -----------------------------------------------------------------------------------


@activity
async def swept_act(what: str) -> str:
    act(what)
    return what


@activity
async def swept_break(is_mended: bool) -> str:
    info = activity_info()
    if not is_mended and info.execution_id not in mended:
        raise NonRetryableError("it is broken")
    return "well"


mended: set[str] = set()


@workflow
async def swept_child(is_mended: bool) -> list[str]:
    first = await swept_act("child first")
    return [first, await swept_break(is_mended), await swept_act("child last")]


@workflow
async def swept_parent(is_mended: bool) -> list[Any]:
    first = await swept_act("first")
    found = await swept_child(is_mended)
    return [first, found, await swept_act("last")]


async def retried_once(app: App) -> Any:
    handle = await begin(app, lambda: swept_parent(False), "parent")
    with contextlib.suppress(WorkflowFailedError):
        return await finished(app, handle)
    for each in await handles(app):
        mended.add((await insist(each.saved_history)).execution_id)
    with contextlib.suppress(InstanceClosedError, InstanceRunningError):  # an earlier process has done so
        await insist(handle.retry)
    return await finished(app, handle)


async def handles(app: App) -> list[Handle[Any]]:
    return [await insist(partial(app.get, info.id)) for info in await insist(app.list)]


async def finished(app: App, handle: Handle[Any]) -> Any:
    """Return the result, and what is recorded, without the order and what differs from one world to the next."""
    result = await insist(handle.result)
    kinds = [sorted(event.kind for event in await insist(each.history)) for each in await handles(app)]
    return result, kinds


async def rerun_once(app: App) -> Any:
    handle = await begin(app, lambda: swept_parent(True), "parent")
    await insist(handle.result)
    with contextlib.suppress(InstanceAlreadyExistsError):  # an earlier process has begun it
        await insist(lambda: handle.rerun(from_activity="2:swept_child", new_id="again"))
    return await finished(app, await insist(lambda: app.get("again")))


@pytest.mark.parametrize("is_mortal", [False, True], ids=["retried", "restarted"])
@pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)
@pytest.mark.parametrize("play", [retried_once, rerun_once])
async def test_branch_is_made_once_whichever_storage_call_fails(
    clock: OffsetClock, hot_limit: int, fault: Fault, is_mortal: bool, play: Callable[[App], Awaitable[Any]]
) -> None:
    scenario = Scenario([swept_parent, swept_child], play)
    await sweep(scenario, clock, hot_limit, fault=fault, is_mortal=is_mortal, at_least=12)
