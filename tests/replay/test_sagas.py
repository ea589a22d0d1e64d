"""Saga blocks, compensations that are armed early, and calls that are armed as compensations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, NoReturn

import pytest

from romancy import ActivityTimedOutError, CompensationError, RetryPolicy, activity, compensate_with, recur, saga
from romancy.core.commands import RunActivity
from romancy.core.events import CancelRequested, EventKind
from romancy.core.records import Status
from romancy.errors import OutsideWorkflowError

from .harness import Shell, check
from .scripting import (
    CODEC,
    T0,
    Message,
    Outcome,
    Plan,
    act,
    attempted,
    begin,
    completed,
    define,
    events_of,
    failed,
    log,
    news,
    undoable,
)


def planned(**ends: float | tuple[float, BaseException]) -> Plan:
    """Let each activity end after its time, one second by default, with its name or an error."""

    def plan(activity_id: str, name: str) -> Outcome:
        end = ends.get(name, 1)
        if isinstance(end, tuple):
            return Outcome(end[0], error=end[1])
        return Outcome(end, name)

    return plan


def fail(exc: Exception) -> NoReturn:
    raise exc


def names(shell: Shell) -> list[str]:
    return [activity_id.partition(":")[2] for activity_id in shell.ids]


def arguments_of(shell_or_turn: Any) -> list[bytes]:
    return [command.call.arguments for command in shell_or_turn.commands if isinstance(command, RunActivity)]


# -- blocks -----------------------------------------------------------------------------------------------


def test_block_that_fails_undoes_its_own_before_the_exception_goes_on() -> None:
    async def flow() -> str:
        await undoable("outside")
        try:
            async with saga():
                await undoable("reserve")
                await undoable("charge")
                fail(ValueError("no paper"))
        except ValueError as exc:
            log("caught", str(exc))
        await act("after")
        return "went on"

    shell = check(flow)
    assert shell.result == "went on"
    assert names(shell) == ["outside", "reserve", "charge", "undo_charge", "undo_reserve", "after"]
    assert shell.trace[0][1:] == ("caught", "no paper")
    assert shell.trace[0][0] == 5_000_000


def test_block_that_ends_well_stays_armed_for_the_run() -> None:
    async def flow() -> None:
        async with saga():
            await undoable("reserve")
        await undoable("charge")
        fail(ValueError("late"))

    assert names(check(flow)) == ["reserve", "charge", "undo_charge", "undo_reserve"]


def test_what_a_block_has_undone_is_not_undone_again_by_the_run() -> None:
    async def flow() -> None:
        await undoable("outside")
        async with saga():
            await undoable("reserve")
            fail(ValueError("no paper"))

    shell = check(flow)
    assert names(shell) == ["outside", "reserve", "undo_reserve", "undo_outside"]
    assert shell.status is Status.FAILED


def test_inner_block_belongs_to_the_outer_one() -> None:
    async def flow() -> str:
        try:
            async with saga():
                await undoable("a")
                async with saga():
                    await undoable("b")
                try:
                    async with saga():
                        await undoable("c")
                        fail(KeyError())
                except KeyError:
                    pass
                await undoable("d")
                fail(ValueError("outer"))
        except ValueError:
            pass
        return "done"

    shell = check(flow)
    assert names(shell) == ["a", "b", "c", "undo_c", "d", "undo_d", "undo_b", "undo_a"]


def test_call_belongs_to_the_block_in_which_it_was_made() -> None:
    async def flow() -> str:
        outside = undoable("outside")
        try:
            async with saga():
                await outside
                await asyncio.gather(undoable("one"), undoable("two"))
                async with asyncio.TaskGroup() as group:
                    group.create_task(task())
                fail(ValueError())
        except ValueError:
            return "done"

    async def task() -> None:
        await undoable("in_task")

    shell = check(flow)
    assert names(shell) == ["outside", "one", "two", "in_task", "undo_in_task", "undo_two", "undo_one"]


def test_block_waits_for_what_is_in_flight_in_it_and_for_nothing_else() -> None:
    async def flow() -> str:
        elsewhere = asyncio.create_task(undoable("elsewhere"))
        try:
            async with saga():
                async with asyncio.timeout(2):
                    await undoable("charge")
        except TimeoutError:
            log("out", elsewhere.done())
        return str(await elsewhere)

    shell = check(flow, plan=planned(charge=5, elsewhere=50))
    assert shell.result == "elsewhere"
    assert shell.trace == [(6_000_000, "out", False)]
    assert sorted(names(shell)) == ["charge", "elsewhere", "undo_charge"]


def test_block_tells_which_compensations_failed_and_so_does_the_run() -> None:
    async def flow() -> None:
        block = saga()
        try:
            async with block:
                await undoable("reserve")
                await undoable("charge")
                fail(ValueError("no paper"))
        except ValueError:
            (failure,) = block.failures
            assert isinstance(failure, CompensationError)
            assert failure.failure is not None
            log(failure.activity_id, failure.failure.message)
        fail(KeyError("later"))

    shell = check(flow, plan=planned(undo_charge=(1, RuntimeError("bank is closed"))))
    assert shell.trace[0][1:] == ("t1.1:undo_charge", "bank is closed")
    assert names(shell) == ["reserve", "charge", "undo_charge", "undo_reserve"]
    assert shell.failure["type"] == "builtins:KeyError"
    assert [detail["type"] for detail in shell.failure["details"]] == ["romancy.errors:CompensationError"]


def test_cancel_that_comes_while_a_block_is_undone_is_raised_when_it_is() -> None:
    async def flow() -> None:
        try:
            async with saga():
                await undoable("a")
                await undoable("b")
                fail(ValueError())
        except asyncio.CancelledError as exc:
            log("cancelled", *exc.args)
            raise

    shell = check(flow, cancel_at=2.5)
    assert shell.status is Status.CANCELLED
    assert names(shell) == ["a", "b", "undo_b", "undo_a"]
    assert shell.trace == [(4_000_000, "cancelled", "enough")]


def test_timeout_around_a_block_lets_it_undo_and_is_then_raised() -> None:
    async def flow() -> str:
        try:
            async with asyncio.timeout(2):
                async with saga():
                    await undoable("a")
                    await news.receive()
        except TimeoutError:
            log("out of time")
        return "done"

    shell = check(flow, plan=planned(undo_a=7))
    assert shell.result == "done"
    assert names(shell) == ["a", "undo_a"]
    assert shell.trace == [(9_000_000, "out of time")]


def test_block_of_a_task_that_is_left_over_is_undone_to_the_end() -> None:
    async def work() -> None:
        async with saga():
            await undoable("a")
            await undoable("b")
            fail(ValueError())

    async def flow() -> str:
        asyncio.create_task(work()).add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.sleep(2.5)
        return "done"

    shell = check(flow)
    assert shell.result == "done"
    assert names(shell) == ["a", "b", "undo_b", "undo_a"]
    assert [report["message"].split("cancelled: ")[1].split(" (")[0] for report in shell.reports] == ["t1"]


def test_run_cancelled_within_a_block_undoes_the_block_first() -> None:
    async def flow() -> None:
        await undoable("outside")
        async with saga():
            await undoable("reserve")
            try:
                await news.receive()
            finally:
                await act("cleanup")

    shell = check(flow, cancel_at=5)
    assert shell.status is Status.CANCELLED
    assert names(shell) == ["outside", "reserve", "cleanup", "undo_reserve", "undo_outside"]


def test_programming_error_that_leaves_a_block_blocks_the_run_and_undoes_nothing() -> None:
    async def flow() -> str:
        try:
            async with saga():
                await undoable("reserve")
                fail(NameError("typo"))
        except Exception:
            return "swallowed"

    shell = Shell(flow).run()
    assert shell.last.blocked is not None
    assert shell.failure["message"] == "typo"
    assert names(shell) == ["reserve"]
    lenient = check(flow, is_lenient=True)
    assert (lenient.result, names(lenient)) == ("swallowed", ["reserve", "undo_reserve"])


def test_activitys_own_type_error_undoes_a_block() -> None:
    async def flow() -> str:
        try:
            async with saga():
                await undoable("reserve")
                await act("bad")
        except TypeError:
            return "caught"
        return "no"

    shell = check(flow, plan=planned(bad=(1, TypeError("as recorded"))))
    assert (shell.result, names(shell)) == ("caught", ["reserve", "bad", "undo_reserve"])


def test_suspended_block_undoes_nothing() -> None:
    async def flow() -> str:
        async with saga():
            await undoable("reserve")
            await news.receive()
        return "done"

    shell = check(flow, messages=[Message(9, "hello")])
    assert (shell.result, names(shell)) == ("done", ["reserve"])


def test_block_of_a_generator_that_is_closed_is_not_undone() -> None:
    async def numbers() -> AsyncIterator[int]:
        async with saga():
            await undoable("reserve")
            yield 1

    async def flow() -> str:
        async for _ in numbers():
            break
        return "done"

    shell = check(flow)
    assert (shell.result, names(shell)) == ("done", ["reserve"])


def test_block_is_entered_once() -> None:
    async def flow() -> str:
        block = saga()
        async with block:
            pass
        try:
            async with block:
                pass
        except RuntimeError as exc:
            return str(exc)
        return "no"

    assert "call saga() again" in check(flow).result


def test_saga_is_for_workflows() -> None:
    with pytest.raises(OutsideWorkflowError, match=r"saga\(\)"):
        saga()


# -- armed from the first attempt on ------------------------------------------------------------------------


def test_attempted_activity_is_undone_without_a_result_when_it_has_failed() -> None:
    async def flow() -> None:
        await attempted("early_book", "tea")

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([failed("1:early_book", OSError("reset"))], stamp=T0)
    assert arguments_of(turn) == [CODEC.encode({"args": [None, "tea"]})]
    end = execution.activate([completed("undo.1:undo_early_book")], stamp=T0)
    assert end.closing is not None
    assert end.closing.status is Status.FAILED
    assert b"it is not known what it did; compensation 'undo.1:undo_early_book' was told so" in (
        end.closing.note.payload or b""
    )
    execution.suspend()


def test_attempted_activity_is_undone_with_its_result_when_it_has_one() -> None:
    async def flow() -> None:
        await attempted("early_book", "tea")
        fail(ValueError())

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([completed("1:early_book", "booked")], stamp=T0)
    assert arguments_of(turn) == [CODEC.encode({"args": ["booked", "tea"]})]
    execution.suspend()


def test_attempted_activity_that_a_timeout_abandons_is_awaited_and_undone() -> None:
    async def flow() -> None:
        async with asyncio.timeout(1):
            await attempted("early_book")

    shell = check(flow, plan=planned(early_book=(5, OSError("reset"))))
    assert names(shell) == ["early_book", "undo_early_book"]
    (unknown,) = shell.failure["details"]
    assert (unknown["type"], unknown["activity_id"]) == ("romancy:UnknownOutcome", "1:early_book")


def test_attempted_activity_that_was_never_asked_for_is_not_undone() -> None:
    async def flow() -> None:
        task = asyncio.create_task(attempted("early_book"))
        await asyncio.sleep(0)
        task.cancel()
        await act("other")
        fail(ValueError())

    assert names(check(flow)) == ["other"]


def test_order_of_asking_decides_when_an_attempted_activity_is_undone() -> None:
    async def flow() -> None:
        await asyncio.gather(attempted("early_book"), undoable("reserve"))
        await attempted("early_pay")
        fail(ValueError())

    shell = check(flow, plan=planned(early_book=3, reserve=1))
    assert names(shell)[3:] == ["undo_early_pay", "undo_reserve", "undo_early_book"]


def test_activity_out_of_time_is_listed_as_unknown_and_not_undone() -> None:
    async def flow() -> None:
        await undoable("reserve")

    shell = check(flow, plan=planned(reserve=(2, ActivityTimedOutError("too slow", kind="timeout"))))
    assert names(shell) == ["reserve"]
    (unknown,) = shell.failure["details"][-shell.failure["undoing"] :]
    assert (unknown["type"], unknown["activity_id"]) == ("romancy:UnknownOutcome", "1:reserve")
    assert "nothing was undone" in unknown["message"]


def test_compensation_gets_its_own_settings_and_name() -> None:
    @activity(name="settings_target")
    async def target() -> None: ...

    early = target.options(timeout=5)
    policy = RetryPolicy(max_attempts=2)

    @target.compensation(
        name="settings_undo", timeout=3, total_timeout=timedelta(minutes=1), heartbeat_timeout=1, retry=policy
    )
    async def undo(_: None) -> None: ...

    assert undo.name == "settings_undo"
    assert undo.settings.timeout == timedelta(seconds=3)
    assert undo.settings.total_timeout == timedelta(minutes=1)
    assert undo.settings.heartbeat_timeout == timedelta(seconds=1)
    assert undo.settings.retry == policy
    assert early.undo is undo


# -- calls that are armed as compensations ------------------------------------------------------------------


def test_armed_call_runs_in_its_place_when_the_run_fails() -> None:
    async def flow() -> None:
        await undoable("reserve")
        compensate_with(act("armed_tidy", 1))
        await undoable("charge")
        fail(ValueError())

    shell = check(flow)
    assert shell.ids == [
        "1:reserve",
        "3:charge",
        "undo.1:undo_charge",
        "2:armed_tidy",
        "undo.2:undo_reserve",
    ]


def test_armed_call_does_not_run_when_the_run_completes() -> None:
    async def flow() -> str:
        compensate_with(act("armed_tidy"))
        await act("work")
        return "done"

    assert names(check(flow)) == ["work"]


def test_armed_call_belongs_to_its_block() -> None:
    async def flow() -> str:
        compensate_with(act("outside"))
        try:
            async with saga():
                compensate_with(act("inside"))
                await act("work")
                fail(ValueError())
        except ValueError:
            return "done"

    assert names(check(flow)) == ["work", "inside"]


def test_armed_call_of_an_undoable_activity_is_not_undone_itself() -> None:
    async def flow() -> None:
        compensate_with(undoable("reserve"))
        await act("work")
        fail(ValueError())

    assert names(check(flow)) == ["work", "reserve"]


def test_armed_call_that_fails_is_told() -> None:
    async def flow() -> None:
        compensate_with(act("armed_tidy"))
        await act("work")
        fail(ValueError("rejected"))

    shell = check(flow, plan=planned(armed_tidy=(1, RuntimeError("stuck"))))
    (detail,) = shell.failure["details"]
    assert detail["message"] == "compensation '1:armed_tidy' failed for good: RuntimeError: stuck"


def test_armed_message_is_sent() -> None:
    async def flow() -> None:
        compensate_with(news.send("sorry", to="other"))
        await act("work")
        fail(ValueError())

    shell = check(flow)
    assert [kind for kind, _ in shell.commands] == ["RunActivity", "Send"]
    assert EventKind.MESSAGE_SENT in {event.kind for event in shell.events}


def test_call_can_be_armed_or_awaited_but_not_both() -> None:
    async def flow() -> str:
        call = act("armed_tidy")
        compensate_with(call)
        try:
            await call
        except RuntimeError as exc:
            return str(exc)
        return "no"

    assert "already" in check(flow).result


def test_only_a_call_can_be_armed() -> None:
    async def flow() -> str:
        make: Callable[..., Any] = compensate_with
        try:
            make("armed_tidy")
        except TypeError as exc:
            return str(exc)
        return "no"

    assert "needs a call" in check(flow).result


# -- recur --------------------------------------------------------------------------------------------------


def test_recur_drops_what_is_armed() -> None:
    async def flow(number: int) -> None:
        await undoable("reserve")
        recur(define(flow)(number + 1))

    shell = Shell(flow, 1).run()
    assert names(shell) == ["reserve"]
    assert shell.events[-1].kind == EventKind.RUN_RECURRED


def test_recur_compensates_first_if_it_is_told_to() -> None:
    async def flow(number: int) -> None:
        await undoable("reserve")
        await undoable("charge")
        try:
            recur(define(flow)(number + 1), compensate=True)
        finally:
            log("unwound")

    for evict in (0.0, 1.0):
        shell = Shell(flow, 1, evict=evict).run()
        assert names(shell) == ["reserve", "charge", "undo_charge", "undo_reserve"]
        assert shell.events[-1].kind == EventKind.RUN_RECURRED
        assert shell.events[-1].payload == b'{"number":2}'
        assert [line[1] for line in shell.trace] == ["unwound"]


def test_recur_compensates_though_the_code_swallows_its_signal() -> None:
    async def flow(number: int) -> None:
        await undoable("reserve")
        woken = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.5, woken.set_result, None)
        try:
            recur(define(flow)(number + 1), compensate=True)
        except BaseException:
            await woken
        log("went on")

    shell = Shell(flow, 1).run()
    assert names(shell) == ["reserve", "undo_reserve"]
    assert shell.events[-1].kind == EventKind.RUN_RECURRED
    assert shell.trace == []


def test_run_that_is_cancelled_while_it_compensates_before_recur_opens_no_other() -> None:
    async def flow(number: int) -> None:
        await undoable("reserve")
        recur(define(flow)(number + 1), compensate=True)

    shell = check(flow, 1, cancel_at=1.5)
    assert shell.status is Status.CANCELLED
    assert shell.failure["message"] == "enough"
    assert names(shell) == ["reserve", "undo_reserve"]


# -- resuming -----------------------------------------------------------------------------------------------


def test_compensation_that_is_done_is_not_repeated_after_a_replay() -> None:
    async def flow() -> None:
        for name in ("a", "b", "c"):
            await undoable(name)
        fail(ValueError())

    first = begin(flow)
    done = ("1:a", "2:b", "3:c", "undo.1:undo_c")
    turns = [first.activate(stamp=T0), *(first.activate([completed(each)], stamp=T0) for each in done)]
    first.suspend()
    again = begin(flow)
    events = events_of(*turns)
    assert again.replay(events, drained_seq=len(events), started_at=T0) is None
    assert [command.activity_id for command in again.outstanding()] == ["undo.2:undo_b"]
    again.suspend()


def test_cancel_while_compensating_changes_nothing() -> None:
    async def flow() -> None:
        await undoable("reserve")
        fail(ValueError("rejected"))

    execution = begin(flow)
    execution.activate(stamp=T0)
    execution.activate([completed("1:reserve")], stamp=T0)
    turn = execution.activate([CancelRequested(b'"stop"', 3)], stamp=T0)
    assert (turn.closing, turn.consumed) == (None, (3,))
    end = execution.activate([completed("undo.1:undo_reserve")], stamp=T0)
    assert end.closing is not None
    assert end.closing.status is Status.FAILED
    execution.suspend()
