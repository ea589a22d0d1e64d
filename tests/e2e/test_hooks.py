"""Hooks: what is told, once, after it has happened, and that they can do no harm."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from romancy import (
    App,
    Channel,
    Hooks,
    RetryPolicy,
    StorageError,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
    activity,
    connection,
    recur,
    sleep,
    start_child,
    workflow,
)
from romancy.core.records import Instance
from romancy.observers import Observers
from romancy.worker.hot import HotRun
from romancy.worker.turns import Turns

from .conftest import MakeApp
from .watching import METHODS, Hostile, ReplayWatch, Stuck, Watch

pytestmark = pytest.mark.anyio

notes: Channel[str] = Channel("hooks.notes", str)
failures: list[Exception] = []
undone: list[str] = []
gates: list[asyncio.Event] = []
wake = Turns.wake
SOON = RetryPolicy(initial_interval=timedelta(milliseconds=1), max_attempts=3)


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    failures.clear()
    undone.clear()
    gates[:] = [asyncio.Event()]  # one for each test's event loop


@activity(name="hooks_act", retry=SOON)
async def act(name: str) -> str:
    if failures:
        raise failures.pop(0)
    return name


@activity(name="hooks_fail", retry=RetryPolicy(max_attempts=1))
async def fail() -> str:
    if not failures:
        raise RuntimeError("no")
    return "yes"


@activity(name="hooks_reserve")
async def reserve(name: str) -> str:
    return name


@reserve.compensation(name="hooks_release")
async def release(result: str, name: str) -> None:
    undone.append(result)


@activity(name="hooks_hang")
async def hang() -> None:
    await asyncio.sleep(600)


@activity(name="hooks_gate")
async def wait_for_gate() -> str:
    await gates[0].wait()
    return "opened"


@workflow(name="hooks_bounded")
async def bounded() -> str:
    async with asyncio.timeout(600):
        return await wait_for_gate()


@workflow(name="hooks_plain")
async def plain(name: str) -> str:
    return await act(name)


@workflow(name="hooks_waits")
async def waits() -> str:
    first = await act("first")
    word = await notes.receive()
    await sleep(0.001)
    return f"{first} {word} {await act('second')}"


@workflow(name="hooks_hears")
async def hears() -> str:
    word = await notes.receive()
    await sleep(0.001)
    return word


@workflow(name="hooks_fails")
async def fails() -> None:
    await reserve("room")
    await fail()


@workflow(name="hooks_tells")
async def tells(to: str) -> None:
    await notes.send("told", to=to)


@workflow(name="hooks_impatient")
async def impatient() -> str:
    try:
        return await notes.receive(timeout=0.001)
    except TimeoutError:
        return "nobody"


@workflow(name="hooks_counts")
async def counts(left: int) -> str:
    await act(str(left))
    if left:
        recur(counts(left - 1))
    return "over"


@workflow(name="hooks_parent")
async def parent() -> None:
    await start_child(waits(), id="child", on_parent_close="terminate")


@workflow(name="hooks_gives_up")
async def gives_up() -> None:
    try:
        async with asyncio.timeout(0.01):
            await hang()
    except TimeoutError:
        pass


async def test_started_activity_and_completed_are_told_once_each(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        assert await app.run(plain("a"), id="one") == "a"
    lasting = [name for name in watch.names("one") if name not in {"workflow_suspended", "workflow_resumed"}]
    assert lasting == ["workflow_started", "activity_started", "activity_completed", "workflow_completed"]
    (done,) = watch.of("activity_completed")
    assert (done.activity_id, done.name, done.attempt, done.failure) == ("1:hooks_act", "hooks_act", 1, None)
    (run,) = {told.run for told in watch.told if told.run is not None}
    assert (run.instance_id, run.workflow, run.run) == ("one", "hooks_plain", 0)
    assert watch.of("batch_committed")


async def test_waiting_run_tells_of_each_thing_once_in_spite_of_replays(make_app: MakeApp, hot_limit: int) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        handle = await app.start(waits(), id="one")
        while "message_waited_for" not in watch.names():
            await asyncio.sleep(0.002)
        await app.send(notes, "word", to="one", message_id="m")
        assert await handle.result() == "first word second"
    found = watch.counts()
    once = (
        "workflow_started", "workflow_completed", "message_waited_for", "message_sent", "message_received",
        "timer_started", "timer_fired",
    )  # fmt: skip
    assert {name: found[name] for name in once} == dict.fromkeys(once, 1)
    assert [e.activity_id for e in watch.of("activity_completed")] == ["1:hooks_act", "3:hooks_act"]
    assert [e.activity_id for e in watch.of("activity_started")] == ["1:hooks_act", "3:hooks_act"]
    (sent,) = watch.of("message_sent")
    (received,) = watch.of("message_received")
    assert (sent.to, sent.message_id, received.message_id, received.channel) == ("one", "m", "m", "hooks.notes")
    suspensions = {name: found[name] for name in ("workflow_suspended", "workflow_resumed", "replay_completed")}
    if hot_limit:
        assert set(suspensions.values()) == {0}
    else:
        assert set(suspensions.values()) == {2}  # at the message, and at the timer
        assert [e.reason for e in watch.of("workflow_suspended")] == ["waiting", "waiting"]
        assert [e.activity_id for e in watch.of("activity_cache_hit")] == ["1:hooks_act"] * 2
        assert [e.events for e in watch.of("replay_completed")] == [1, 2]


async def test_what_comes_first_to_a_run_that_has_parked_is_told(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        handle = await app.start(hears(), id="one")
        while not (await handle.info()).waiting_on:
            await asyncio.sleep(0.002)
        await app.send(notes, "word", to="one")
        assert await handle.result() == "word"
    found = watch.counts()
    assert (found["message_waited_for"], found["message_received"], found["timer_started"]) == (1, 1, 1)
    assert found["timer_fired"] == 1


async def test_who_asks_for_replays_is_told_of_them_as_such() -> None:
    watch, replays = Watch(), ReplayWatch()
    async with App("sqlite://", hot_limit=0, hooks=[watch, replays]) as app:
        handle = await app.start(waits(), id="one")
        while "message_waited_for" not in watch.names():
            await asyncio.sleep(0.002)
        await app.send(notes, "word", to="one")
        await handle.result()
    assert not any(told.event.is_replayed for told in watch.told)
    fresh = [told for told in replays.told if not told.event.is_replayed]
    assert [told.method for told in fresh] == [told.method for told in watch.told]
    again = [told.method for told in replays.told if told.event.is_replayed]
    assert again == [
        *("activity_completed", "message_waited_for"),
        *("activity_completed", "message_waited_for", "message_received", "timer_started"),
    ]


async def test_failed_attempts_are_told_with_what_they_failed_with(make_app: MakeApp) -> None:
    failures.extend([RuntimeError("one"), RuntimeError("two")])
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        assert await app.run(plain("a")) == "a"
    retried = watch.of("activity_retried")
    assert [(e.attempt, e.failure.message) for e in retried] == [(1, "one"), (2, "two")]
    assert all(e.retry_stamp > e.scheduled_stamp for e in retried)
    assert [e.attempt for e in watch.of("activity_started")] == [1, 2, 3]
    assert [e.attempt for e in watch.of("activity_completed")] == [3]


async def test_failed_run_tells_of_its_compensations_apart_from_activities(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        with pytest.raises(WorkflowFailedError):
            await app.run(fails())
    assert undone == ["room"]
    assert [e.name for e in watch.of("activity_failed")] == ["hooks_fail"]
    assert [e.name for e in watch.of("compensation_started")] == ["hooks_release"]
    assert [(e.name, e.is_compensation) for e in watch.of("compensation_completed")] == [("hooks_release", True)]
    assert [e.name for e in watch.of("activity_completed")] == ["hooks_reserve"]
    (end,) = watch.of("workflow_failed")
    assert (end.status, end.failure.message) == ("failed", "no")


async def test_withdrawn_activity_is_told_as_cancelled(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        await app.run(gives_up())
    assert [e.name for e in watch.of("activity_cancelled")] == ["hooks_hang"]
    assert not watch.of("activity_completed", "activity_failed")


async def test_each_kind_of_end_is_told_as_itself(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        cancelled = await app.start(waits(), id="cancelled")
        terminated = await app.start(waits(), id="terminated")
        late = await app.start(waits(), id="late", timeout=0.05)
        while watch.counts()["message_waited_for"] < 3:
            await asyncio.sleep(0.002)
        await cancelled.cancel("enough")
        await terminated.terminate("enough")
        for handle, error in (
            (cancelled, WorkflowCancelledError),
            (terminated, WorkflowTerminatedError),
            (late, WorkflowTimedOutError),
        ):
            with pytest.raises(error):
                await handle.result()
    ends = {told.run.instance_id: told.method for told in watch.told if told.run and told.method in _ENDS}
    assert ends == {
        "cancelled": "workflow_cancelled",
        "terminated": "workflow_terminated",
        "late": "workflow_timed_out",
    }
    assert sum(watch.counts()[name] for name in _ENDS) == 3


_ENDS = {name for name in METHODS if name.startswith("workflow_")} - {
    "workflow_started",
    "workflow_suspended",
    "workflow_resumed",
}


async def test_terminate_holds_though_what_hooks_are_told_can_t_be_read(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> list[Instance]:
        raise StorageError("the line is cut")

    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        handle = await app.start(waits(), id="one")
        while "message_waited_for" not in watch.names():
            await asyncio.sleep(0.002)
        monkeypatch.setattr(app.client.storage, "get_many", broken)
        await handle.terminate()
        with pytest.raises(WorkflowTerminatedError):
            await handle.result()
    assert not watch.of("workflow_terminated")


async def test_child_that_ends_with_its_parent_is_told_of(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        await app.run(parent(), id="parent")
        while not watch.of("workflow_terminated"):
            await asyncio.sleep(0.002)
    assert [told.run.instance_id for told in watch.told if told.run and told.method in _ENDS] == ["parent", "child"]


async def test_message_between_workflows_and_one_that_never_comes(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        receiver = await app.start(waits(), id="receiver")
        await app.run(tells("receiver"), id="sender")
        await receiver.result()
        assert await app.run(impatient(), id="impatient") == "nobody"
    (sent,) = watch.of("message_sent")
    (received,) = watch.of("message_received")
    assert (sent.sender, sent.to, sent.message_id) == ("sender", "receiver", received.message_id)
    assert received.sender == "sender"
    assert [e.channel for e in watch.of("message_timed_out")] == ["hooks.notes"]


async def test_every_run_of_an_instance_that_recurs_is_told_of(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        assert await app.run(counts(2)) == "over"
    runs = [
        (told.method, told.run.run)
        for told in watch.told
        if told.run and told.method in {"workflow_started", "workflow_recurred", "workflow_completed"}
    ]
    assert runs == [
        *(("workflow_started", 0), ("workflow_recurred", 0)),
        *(("workflow_started", 1), ("workflow_recurred", 1)),
        *(("workflow_started", 2), ("workflow_completed", 2)),
    ]
    traces = {told.run.trace.trace_id for told in watch.told if told.run}
    assert len(traces) == 3


async def test_code_that_does_not_fit_is_told_as_nondeterminism(database: str, request: pytest.FixtureRequest) -> None:
    @workflow(name="hooks_changes")
    async def before() -> str:
        return await act("a") + await notes.receive()

    async with App(database, workflows=[before], build="1") as app:
        await app.start(before(), id="one")
        while not (await (await app.get("one")).info()).waiting_on:
            await asyncio.sleep(0.002)

    @workflow(name="hooks_changes")
    async def after() -> str:
        return await reserve("a") + await notes.receive()

    watch = Watch()
    async with App(database, workflows=[after], build="2", hooks=[watch]) as app:
        await app.send(notes, "word", to="one")
        with pytest.raises(WorkflowBlockedError):
            await (await app.get("one")).result()
        await app.hooks_told()
    names = watch.names("one")
    assert names == ["workflow_resumed", "replay_started", "nondeterminism", "workflow_blocked"]


def lose_session(app: App) -> None:
    assert app.worker is not None
    session = app.worker._session
    assert session.id is not None
    session.lose(session.id)


async def test_lost_session_is_told_and_outcomes_are_told_once(make_app: MakeApp, database: str) -> None:
    watch = Watch()
    async with make_app(database, hooks=[watch], session_ttl=timedelta(seconds=1)) as app:
        handle = await app.start(waits(), id="one")
        while "message_waited_for" not in watch.names():
            await asyncio.sleep(0.002)
        lose_session(app)
        await app.send(notes, "word", to="one")
        assert await handle.result() == "first word second"
    assert [e.runs for e in watch.of("session_lost")] in ([0], [1])
    assert [e.activity_id for e in watch.of("activity_completed")] == ["1:hooks_act", "3:hooks_act"]
    assert watch.counts()["workflow_started"] == watch.counts()["message_received"] == 1


async def test_first_turn_of_which_nothing_was_recorded_is_told_once(make_app: MakeApp, database: str) -> None:
    watch = Watch()
    async with make_app(database, hooks=[watch], session_ttl=timedelta(seconds=1)) as app:
        handle = await app.start(bounded(), id="one")
        while not watch.of("activity_started"):
            await asyncio.sleep(0.002)
        lose_session(app)
        gates[0].set()
        assert await handle.result() == "opened"
    found = watch.counts()
    assert (found["workflow_started"], found["workflow_resumed"], found["timer_started"]) == (1, 1, 1)
    assert (found["activity_started"], found["activity_completed"]) == (2, 1)


async def test_instances_are_counted(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]):
        while not watch.of("instances_counted"):
            await asyncio.sleep(0.002)
    (counted, *_) = watch.of("instances_counted")
    assert (counted.hot, counted.cold, counted.by_status) == (0, 0, {})


async def test_hooks_that_raise_change_nothing_and_are_logged(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    hostile, watch = Hostile(), Watch()
    with caplog.at_level(logging.ERROR, "romancy"):
        async with make_app(hooks=[hostile, watch]) as app:
            handle = await app.start(waits(), id="one")
            await app.send(notes, "word", to="one")
            assert await handle.result() == "first word second"
            with pytest.raises(WorkflowFailedError):
                await app.run(fails())
    assert [told.method for told in hostile.told] == [told.method for told in watch.told]
    logged = [record for record in caplog.records if "raised" in record.message]
    assert len(logged) == len(hostile.told)


async def test_hooks_that_block_hold_up_nobody(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    stuck, watch = Stuck(), Watch()
    try:
        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, "romancy"):
            patch.setattr("romancy.observers._PATIENCE", 0.1)
            async with make_app(hooks=[stuck, watch]) as app:
                for number in range(20):
                    assert await app.run(plain(str(number))) == str(number)
        assert watch.counts()["workflow_completed"] == 20
        assert len(stuck.told) == 1
        assert any("does not return from a hook" in record.message for record in caplog.records)
    finally:
        stuck.gate.set()


async def test_hooks_that_fall_behind_lose_what_is_beyond_their_backlog(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Stuck):
        backlog = 5

    slow = Slow()
    with caplog.at_level(logging.WARNING, "romancy"):
        async with App("sqlite://", hooks=[slow]) as app:
            for number in range(20):
                await app.run(plain(str(number)))
            slow.gate.set()
    assert len(slow.told) < 20
    assert any("has fallen behind" in record.message for record in caplog.records)


async def test_hooks_are_no_part_of_what_is_collected_without_them() -> None:
    async with App("sqlite://") as app:
        await app.start(waits(), id="one")
        assert app.worker is not None
        while not (await (await app.get("one")).info()).waiting_on:
            await asyncio.sleep(0.002)
        (run,) = app.worker._hot
        assert (run.ref, run.execution.observer, run.execution.trace) == (None, None, None)


def test_what_is_no_hooks_is_refused() -> None:
    with pytest.raises(TypeError, match="derive its class from romancy"):
        App("sqlite://", hooks=[object()])  # type: ignore[list-item] # pyright: ignore[reportArgumentType] # it is refused


async def test_only_overridden_methods_are_called() -> None:
    class One(Hooks):
        pass

    observers = Observers([One()])
    observers.open()
    assert not any(observers.wants(name) for name in METHODS)
    await observers.close()


@activity(name="hooks_write", transactional=True)
async def write() -> str:
    await connection().execute("SELECT 1")
    return "written"


@workflow(name="hooks_writes")
async def writes() -> str:
    return await write()


async def test_result_that_was_recorded_without_its_turn_is_told_by_who_goes_on(
    make_app: MakeApp, database: str
) -> None:
    watch = Watch()
    async with make_app(database, hooks=[watch], session_ttl=timedelta(seconds=1)) as app:

        def die_or_wake(self: Turns, run: HotRun) -> None:
            """Die, so to speak, when the result is committed and before its turn is computed."""
            if run.recorded is None:
                wake(self, run)
            else:
                lose_session(app)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Turns, "wake", die_or_wake)
            handle = await app.start(writes(), id="one")
            while not watch.of("session_lost"):
                await asyncio.sleep(0.002)
        assert await handle.result() == "written"
    assert watch.counts()["activity_completed"] == watch.counts()["workflow_completed"] == 1


async def test_result_of_a_paused_run_is_told_once(make_app: MakeApp) -> None:
    watch = Watch()
    async with make_app(hooks=[watch]) as app:
        handle = await app.start(bounded(), id="one")
        while not watch.of("activity_started"):
            await asyncio.sleep(0.002)
        await handle.pause()
        assert app.worker is not None
        (run,) = app.worker._hot
        while not run.is_paused:
            await asyncio.sleep(0.002)
        gates[0].set()
        while not watch.of("workflow_suspended"):
            await asyncio.sleep(0.002)
        assert [e.activity_id for e in watch.of("activity_completed")] == ["1:hooks_gate"]
        assert [e.reason for e in watch.of("workflow_suspended")] == ["paused"]
        await handle.unpause()
        assert await handle.result() == "opened"
    assert not watch.repeated()
    assert watch.counts()["activity_completed"] == 1


@workflow(name="hooks_buggy")
async def buggy() -> None:
    await act("first")
    missing: Any = {}
    await act(missing.nothing)


async def test_result_that_a_blocked_run_keeps_is_told_once(database: str) -> None:
    watch = Watch()
    async with App(database, hooks=[watch], build="1") as app:
        handle = await app.start(buggy(), id="one")
        with pytest.raises(WorkflowBlockedError):
            await handle.result()
        assert [event.kind for event in await handle.history()] == ["activity_completed"]
    async with App(database, hooks=[watch], build="2") as app:
        while watch.counts()["workflow_blocked"] < 2:
            await asyncio.sleep(0.002)
    assert watch.counts()["activity_completed"] == 1
    assert not watch.repeated()
