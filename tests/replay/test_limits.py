"""Cancels with a grace limit, time limits of runs, and work that is unfinished when the code has returned."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import anyio
import pytest

from romancy import now
from romancy.core.commands import CancelActivity
from romancy.core.events import CancelRequested, EventKind, Release, TimerFired
from romancy.core.records import Status

from .harness import Shell, check
from .scripting import (
    T0,
    Message,
    Outcome,
    Plan,
    act,
    begin,
    completed,
    define,
    events_of,
    log,
    message,
    news,
    undoable,
)


def planned(**ends: float | None) -> Plan:
    """Let each activity end after its time, one second by default."""
    return lambda activity_id, name: Outcome(ends.get(name, 1), name)


def names(shell: Shell) -> list[str]:
    return [activity_id.partition(":")[2] for activity_id in shell.ids]


def kinds(shell: Shell) -> list[str]:
    return [EventKind(event.kind).name.lower() for event in shell.events]


# -- cancels ------------------------------------------------------------------------------------------------


def test_cancel_before_the_first_turn_reaches_code_that_has_run_to_its_first_wait() -> None:
    lines: list[str] = []

    async def flow() -> None:
        lines.append("began")
        try:
            await act("first_work")
        finally:
            lines.append("cleaned up")

    execution = begin(flow)
    turn = execution.activate([CancelRequested(b'"x"', 1)], stamp=T0)
    assert turn.closing is not None
    assert turn.closing.status is Status.CANCELLED
    assert (turn.commands, turn.consumed) == ([], (1,))  # the activity was taken back in the turn that asked for it
    assert lines == ["began", "cleaned up"]
    execution.suspend()


def test_cancel_and_a_satisfying_message_in_one_batch_take_effect_in_their_order() -> None:
    async def flow() -> str:
        try:
            return str(await news.receive())
        except asyncio.CancelledError:
            return f"cancelled, then {await news.receive()}"

    batches: list[tuple[list[Release], bytes, tuple[int, ...]]] = [
        ([message("hello", 1), CancelRequested(b'"x"', 2)], b'"hello"', (1,)),
        ([CancelRequested(b'"x"', 1), message("hello", 2)], b'"cancelled, then hello"', (1, 2)),
    ]
    for batch, result, consumed in batches:
        execution = begin(flow)
        execution.activate(stamp=T0)
        turn = execution.activate(batch, stamp=T0)
        assert turn.closing is not None
        assert (turn.closing.note.payload, turn.consumed) == (result, consumed)
        execution.suspend()


def test_cancel_that_comes_after_the_end_in_one_batch_is_kept_for_nobody() -> None:
    async def flow() -> str:
        return str(await news.receive())

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([message("hello", 1), CancelRequested(b'"x"', 2)], stamp=T0)
    assert turn.closing is not None
    assert turn.closing.status is Status.COMPLETED
    assert [item.inbox_seq for item in execution.inbox.unread()] == [2]
    execution.suspend()


def test_cancel_inside_a_loop_of_activities_ends_it() -> None:
    async def flow() -> None:
        for number in range(10):
            await act(f"loop{number}")

    shell = check(flow, cancel_at=2.5)
    assert shell.status is Status.CANCELLED
    assert names(shell) == ["loop0", "loop1", "loop2"]
    assert ("CancelActivity", "3:loop2") in shell.commands


def test_caught_cancel_is_not_raised_again() -> None:
    async def flow() -> list[str]:
        done: list[str] = []
        for number in range(4):
            try:
                done.append(str(await act(f"loop{number}")))
            except asyncio.CancelledError:
                done.append("cancelled")
        return done

    shell = check(flow, cancel_at=1.5)
    assert shell.result == ["1:loop0!", "cancelled", "3:loop2!", "4:loop3!"]


def test_gather_of_a_timer_a_shielded_timer_and_an_activity_is_cancelled_as_one() -> None:
    async def flow() -> Any:
        shielded = asyncio.ensure_future(asyncio.sleep(20, "slept"))
        try:
            return await asyncio.gather(asyncio.sleep(10), asyncio.shield(shielded), act("slow"))
        except asyncio.CancelledError:
            return [await shielded, (now().timestamp() * 1_000_000 - T0) // 1_000_000]

    shell = check(flow, cancel_at=5, plan=planned(slow=50))
    assert shell.result == ["slept", 20]
    assert ("CancelActivity", "1:slow") in shell.commands
    assert [event.activity_id for event in shell.events if event.kind == EventKind.TIMER_FIRED] == ["t1@1"]


def test_cleanup_in_except_and_finally_runs_activities() -> None:
    async def flow() -> None:
        try:
            try:
                await act("slow")
            except asyncio.CancelledError:
                await act("in_except")
                raise
            finally:
                await act("in_finally")
        finally:
            await asyncio.sleep(1)
            await act("last")

    shell = check(flow, cancel_at=5, plan=planned(slow=50))
    assert (shell.status, names(shell)) == (Status.CANCELLED, ["slow", "in_except", "in_finally", "last"])


@pytest.mark.parametrize("what", ["timer", "activity", "receive", "undoable"])
def test_what_is_begun_and_cancelled_in_one_turn_records_nothing(what: str) -> None:
    async def flow() -> str:
        begun: dict[str, Any] = {
            "timer": lambda: asyncio.sleep(5),
            "activity": lambda: act("first_work"),
            "receive": lambda: news.receive(timeout=5),
            "undoable": lambda: undoable("undoable_work"),
        }
        task = asyncio.ensure_future(begun[what]())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(1)
        return "done"

    shell = check(flow)
    assert shell.result == "done"
    assert shell.commands == []
    assert kinds(shell) == ["timer_fired", "run_completed"]
    assert len(shell.execution.timers) == 0


def test_cancel_reaches_code_in_an_anyio_shield_only_when_it_is_left() -> None:
    async def flow() -> None:
        with anyio.CancelScope(shield=True):
            await act("protected")
        log("left")
        await act("never")

    shell = check(flow, cancel_at=0.5)
    assert shell.status is Status.CANCELLED


# -- grace ----------------------------------------------------------------------------------------------------


def test_run_that_does_not_end_within_the_grace_time_is_terminated_and_says_so() -> None:
    async def flow() -> None:
        await undoable("reserve")
        try:
            await news.receive()
        finally:
            await act("hangs")

    shell = check(flow, cancel_at=5, grace=10, plan=planned(hangs=None))
    assert shell.status is Status.TERMINATED
    assert shell.events[-1].kind == EventKind.RUN_TERMINATED
    assert shell.events[-1].stamp == T0 + 15_000_000
    assert shell.failure["message"] == (
        "it was cancelled (enough) and did not end within the grace time; not undone: 1:reserve"
    )
    assert names(shell) == ["reserve", "hangs"]


def test_run_that_ends_within_the_grace_time_is_cancelled() -> None:
    async def flow() -> None:
        await undoable("reserve")
        try:
            await news.receive()
        finally:
            await act("cleanup")

    shell = check(flow, cancel_at=5, grace=10)
    assert (shell.status, names(shell)) == (Status.CANCELLED, ["reserve", "cleanup", "undo_reserve"])


def test_grace_counts_for_compensations_too() -> None:
    async def flow() -> None:
        await undoable("reserve")
        await news.receive()

    shell = check(flow, cancel_at=5, grace=10, plan=planned(undo_reserve=None))
    assert shell.status is Status.TERMINATED


def test_without_a_grace_a_cancelled_run_may_take_as_long_as_it_takes() -> None:
    async def flow() -> None:
        try:
            await news.receive()
        finally:
            await asyncio.sleep(1_000_000)

    assert check(flow, cancel_at=5).status is Status.CANCELLED


def test_shortest_grace_counts() -> None:
    async def flow() -> None:
        while True:
            try:
                await news.receive()
            except asyncio.CancelledError:
                continue

    execution = begin(flow)
    execution.activate(stamp=T0)
    deadlines: list[int | None] = []
    graces = (b"9000", b"5", b"70")
    wishes = [b'"a"', *[b'{"reason":"b","grace":%b}' % grace for grace in graces], b'"d"']
    for seq, wish in enumerate(wishes, 1):
        execution.activate([CancelRequested(wish, seq)], stamp=T0)
        deadlines.append(execution.timers.next_deadline())
    assert deadlines == [None, T0 + 9000, T0 + 5, T0 + 5, T0 + 5]
    end = execution.activate([TimerFired("grace@1")], stamp=T0 + 5)
    assert end.closing is not None
    assert end.closing.status is Status.TERMINATED
    assert len(execution.timers) == 0
    execution.suspend()


def test_run_that_is_terminated_asks_for_nothing_in_that_turn() -> None:
    """Nobody would hear the outcome; and a subscription or a child would outlive the run."""

    async def child() -> None:
        raise AssertionError

    async def flow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1_000_000)
        await news.receive()
        async with asyncio.TaskGroup() as group:
            group.create_task(news.send("hello", to="other"))
            group.create_task(news.publish("hello"))
            group.create_task(news.subscribe().__aenter__())
            group.create_task(define(child)())

    execution = begin(flow)
    execution.activate(stamp=T0)
    execution.activate([CancelRequested(b'{"reason":"b","grace":5}', 1)], stamp=T0)
    end = execution.activate([message("go on", 2), TimerFired("grace@1")], stamp=T0 + 5)
    assert end.closing is not None
    assert end.closing.status is Status.TERMINATED
    assert end.commands == []
    execution.suspend()


# -- time limits ----------------------------------------------------------------------------------------------


def test_run_out_of_time_is_cancelled_once_cleans_up_undoes_and_ends_as_timed_out() -> None:
    async def flow() -> None:
        await undoable("reserve")
        try:
            await act("slow")
        except asyncio.CancelledError as exc:
            log("cancelled", *exc.args)
            await act("cleanup")
            raise

    shell = check(flow, time_limit=5, plan=planned(slow=50))
    assert shell.status is Status.TIMED_OUT
    assert names(shell) == ["reserve", "slow", "cleanup", "undo_reserve"]
    assert shell.trace == [(5_000_000, "cancelled", "the run's time limit is reached")]
    assert kinds(shell) == [
        "activity_completed",
        "time_limit_reached",
        "activity_completed",
        "compensation_started",
        "activity_completed",
        "run_timed_out",
    ]
    assert shell.failure["type"] == "romancy.errors:WorkflowTimedOutError"
    assert "2023-11-14T22:13:25+00:00" in shell.failure["message"]


def test_code_that_suppresses_the_cancel_still_times_out() -> None:
    async def flow() -> str:
        await undoable("reserve")
        try:
            await news.receive()
        except asyncio.CancelledError:
            await act("cleanup")
        return "too late"

    shell = check(flow, time_limit=5)
    assert (shell.status, names(shell)) == (Status.TIMED_OUT, ["reserve", "cleanup", "undo_reserve"])


def test_error_that_code_raises_when_it_is_out_of_time_is_the_cause() -> None:
    async def flow() -> None:
        try:
            await news.receive()
        except asyncio.CancelledError:
            raise ValueError("can't clean up") from None

    shell = check(flow, time_limit=5)
    assert shell.status is Status.TIMED_OUT
    assert shell.failure["cause"]["message"] == "can't clean up"


def test_run_that_ends_in_time_leaves_no_trace_of_the_limit() -> None:
    async def flow() -> str:
        await asyncio.sleep(3)
        return "done"

    shell = check(flow, time_limit=5)
    assert kinds(shell) == ["timer_fired", "run_completed"]
    assert shell.execution.timers.next_deadline() is None


def test_limit_does_not_count_while_a_run_is_undone() -> None:
    async def flow() -> None:
        await undoable("reserve")
        raise ValueError("rejected")

    shell = check(flow, time_limit=2, plan=planned(undo_reserve=60))
    assert (shell.status, shell.failure["message"]) == (Status.FAILED, "rejected")


def test_limit_that_has_passed_before_the_first_turn_ends_the_run_in_it() -> None:
    async def flow() -> None:
        await act("first_work")

    execution = begin(flow, deadline=T0 - 1)
    due = [TimerFired(timer_id) for _, timer_id in execution.timers.due(T0)]
    turn = execution.activate(due, stamp=T0)
    assert turn.closing is not None
    assert (turn.closing.status, turn.commands) == (Status.TIMED_OUT, [])
    execution.suspend()


def test_limit_is_raised_in_a_run_that_has_caught_a_cancel() -> None:
    async def flow() -> list[str]:
        caught: list[str] = []
        while len(caught) < 2:
            try:
                await news.receive()
            except asyncio.CancelledError as exc:
                caught.append(str(exc))
                log(str(exc))
        return caught

    shell = check(flow, cancel_at=1, time_limit=5)
    assert [line[1] for line in shell.trace] == ["enough", "the run's time limit is reached"]
    assert shell.status is Status.TIMED_OUT


def test_cancel_of_a_run_that_is_out_of_time_is_not_raised() -> None:
    async def flow() -> None:
        try:
            await news.receive()
        except asyncio.CancelledError:
            log("cleaned up", await act("cleanup"))
            raise

    shell = check(flow, time_limit=5, cancel_at=6, plan=planned(cleanup=9))
    assert (shell.status, shell.trace) == (Status.TIMED_OUT, [(14_000_000, "cleaned up", "cleanup")])
    assert "cancel_requested" in kinds(shell)


def test_programming_error_of_a_run_out_of_time_blocks_it() -> None:
    async def flow() -> None:
        await undoable("reserve")
        try:
            await news.receive()
        finally:
            raise NameError("typo")

    shell = Shell(flow, time_limit=5).run()
    assert shell.last.blocked is not None
    assert names(shell) == ["reserve"]


# -- unfinished tasks -------------------------------------------------------------------------------------------


def test_unfinished_tasks_at_return_are_cancelled_and_named_once() -> None:
    async def listens() -> None:
        await news.receive(timeout=100)

    async def sleeps() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(2)

    async def flow() -> str:
        asyncio.create_task(listens(), name="ears")  # noqa: RUF006 - left over on purpose
        asyncio.create_task(sleeps())  # noqa: RUF006
        asyncio.create_task(asyncio.wait_for(act("slow"), 90))  # noqa: RUF006
        await asyncio.sleep(1)
        return "done"

    shell = check(flow, messages=[Message(2, "kept")], plan=planned(slow=50))
    assert shell.result == "done"
    (report,) = shell.reports
    assert "unfinished tasks" in report["message"]
    for name in ("ears (", "listens)", "t2 (", "sleeps)", "t3 (wait_for)"):
        assert name in report["message"]
    assert "t3.1" not in report["message"]
    assert [event.activity_id for event in shell.events if event.activity_id] == ["@1", "t2@2"]
    assert len(shell.execution.timers) == 0
    assert ("CancelActivity", "1:slow") in shell.commands
    (unread,) = shell.execution.inbox.unread()
    assert unread.inbox_seq == 1


def test_unfinished_tasks_of_a_first_turn_without_events_are_named_once() -> None:
    async def sleeps() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(2)

    async def flow() -> str:
        asyncio.create_task(sleeps())  # noqa: RUF006
        await asyncio.sleep(0)
        return "done"

    shell = check(flow)
    assert len(shell.reports) == 1


def test_unfinished_tasks_of_a_run_that_fails_are_cancelled_without_a_word() -> None:
    async def flow() -> None:
        asyncio.create_task(asyncio.sleep(100))  # noqa: RUF006
        await asyncio.sleep(1)
        raise ValueError

    shell = check(flow)
    assert (shell.status, shell.reports) == (Status.FAILED, [])


def test_what_was_reported_is_not_reported_again_by_a_replay() -> None:
    async def flow() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await act("first_work")
        await act("second_work")

    live = begin(flow)
    turns = [live.activate(stamp=T0), live.activate([completed("1:first_work")], stamp=T0)]
    assert len(live.loop.reports) == 1
    live.suspend()
    again = begin(flow)
    events = events_of(*turns)
    again.replay(events, drained_seq=len(events), started_at=T0)
    assert again.loop.reports == []
    again.suspend()


def test_drop_of_an_activity_in_flight_is_commanded_once() -> None:
    async def flow() -> str:
        asyncio.create_task(act("slow"))  # noqa: RUF006
        await act("quick_work")
        return "done"

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([completed("2:quick_work")], stamp=T0)
    assert turn.closing is not None
    assert turn.commands == [CancelActivity("1:slow")]
    execution.suspend()
