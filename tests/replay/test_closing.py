"""How a run ends: leftovers are cancelled and waited for, generators closed, and what has to be undone is undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from romancy.core.commands import CancelActivity, RunActivity
from romancy.core.events import ActivityRetried, CancelRequested, EventKind
from romancy.core.records import Status

from .harness import Shell, check, id_of
from .scripting import T0, Message, Outcome, Plan, act, begin, completed, failed, log, news, undoable


def planned(**ends: float | tuple[float, BaseException]) -> Plan:
    """Let each activity end after its time, one second by default, with its name or an error."""

    def plan(activity_id: str, name: str) -> Outcome:
        end = ends.get(name, 1)
        if isinstance(end, tuple):
            return Outcome(end[0], error=end[1])
        return Outcome(end, name)

    return plan


def names(shell: Shell) -> list[str]:
    return [activity_id.partition(":")[2] for activity_id in shell.ids]


# -- leftovers --------------------------------------------------------------------------------------------


def test_generators_are_closed_in_the_order_of_their_first_iteration() -> None:
    async def numbers(number: int) -> AsyncIterator[int]:
        try:
            yield number
        finally:
            log("closed", number, await act(f"c{number}"))

    async def flow() -> str:
        made = [numbers(number) for number in range(3)]
        for generator in reversed(made):
            await anext(generator)
        async for _ in numbers(9):
            break
        return "done"

    shell = check(flow)
    assert [line[2] for line in shell.trace] == [2, 1, 0, 9]
    assert shell.ids == ["end.1:c2", "end.2:c1", "end.3:c0", "end.4:c9"]


def test_leftover_tasks_are_cancelled_in_the_order_of_creation_and_may_clean_up() -> None:
    async def work(name: str) -> None:
        try:
            await news.receive()
        finally:
            log("cancelled", name)
            await act(f"clean_{name}")
            log("cleaned", name)

    async def flow() -> str:
        for name in "abc":
            asyncio.create_task(work(name))  # noqa: RUF006 - left over on purpose
        await asyncio.sleep(1)
        return "done"

    shell = check(flow, plan=planned(clean_a=3, clean_b=1))
    assert shell.result == "done"
    assert [line[1:] for line in shell.trace] == [
        ("cancelled", "a"),
        ("cancelled", "b"),
        ("cancelled", "c"),
        ("cleaned", "b"),
        ("cleaned", "c"),
        ("cleaned", "a"),
    ]


def test_task_that_a_cancelled_leftover_spawns_is_cancelled_too() -> None:
    async def late() -> None:
        try:
            await news.receive()
        finally:
            log("late", await act("late"))

    async def work() -> None:
        try:
            await news.receive()
        finally:
            asyncio.create_task(late())  # noqa: RUF006 - left over on purpose
            await act("cleanup")

    async def flow() -> None:
        asyncio.create_task(work())  # noqa: RUF006 - left over on purpose
        await asyncio.sleep(1)

    shell = check(flow)
    assert shell.status is Status.COMPLETED
    assert shell.trace[-1][1:] == ("late", "t1.1.2:late!")


def test_failing_generator_does_not_keep_the_others_open() -> None:
    async def numbers(number: int) -> AsyncIterator[int]:
        try:
            yield number
        finally:
            log("closed", number)
            if number == 0:
                raise ValueError("can't close")

    async def flow() -> None:
        for number in range(2):
            async for _ in numbers(number):
                break

    shell = check(flow)
    assert [line[2] for line in shell.trace] == [0, 1]
    assert "closing an async generator failed" in shell.reports[0]["message"]


def test_closed_generators_are_forgotten() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    async def flow() -> None:
        for _ in range(100):
            async for _ in numbers():
                pass
        await act("a")

    execution = begin(flow)
    execution.activate(stamp=T0)
    assert len(execution.loop.generators) == 0
    execution.suspend()


# -- undoing ----------------------------------------------------------------------------------------------


def test_compensations_run_in_reverse_order() -> None:
    async def flow() -> None:
        await undoable("reserve", 1)
        await act("plain")
        await undoable("charge", 2)
        await undoable("ship", 3)
        raise ValueError("rejected")

    shell = check(flow, plan=planned())
    assert shell.status is Status.FAILED
    assert shell.failure["message"] == "rejected"
    assert names(shell) == ["reserve", "plain", "charge", "ship", "undo_ship", "undo_charge", "undo_reserve"]
    assert shell.ids[-3:] == ["undo.1:undo_ship", "undo.2:undo_charge", "undo.3:undo_reserve"]


def test_compensation_gets_result_and_arguments() -> None:
    async def flow() -> None:
        await undoable("reserve", 1, "two")
        raise ValueError

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([completed("1:reserve", "held")], stamp=T0)
    (command,) = turn.commands
    assert isinstance(command, RunActivity)
    assert command.call.arguments == b'{"args":["held",1,"two"]}'
    execution.suspend()


def test_completed_run_undoes_nothing() -> None:
    async def flow() -> str:
        await undoable("reserve")
        return "done"

    assert names(check(flow)) == ["reserve"]


def test_order_of_results_decides_the_order_of_undoing() -> None:
    async def flow() -> None:
        await asyncio.gather(undoable("reserve"), undoable("charge"))
        raise ValueError

    shell = check(flow, plan=planned(reserve=3, charge=1))
    assert names(shell) == ["reserve", "charge", "undo_reserve", "undo_charge"]


def test_compensation_that_fails_for_good_is_told_and_the_others_go_on() -> None:
    async def flow() -> None:
        await undoable("reserve")
        await undoable("charge")
        raise ValueError("rejected")

    shell = check(flow, plan=planned(undo_charge=(1, RuntimeError("bank is closed"))))
    assert names(shell)[-2:] == ["undo_charge", "undo_reserve"]
    assert shell.failure["message"] == "rejected"
    (detail,) = shell.failure["details"]
    told = "compensation 'undo.1:undo_charge' of '2:charge' failed for good: RuntimeError: bank is closed"
    assert (detail["type"], detail["message"]) == ("romancy.errors:CompensationError", told)
    assert detail["activity_id"] == "undo.1:undo_charge"
    assert detail["details"][0]["type"] == "builtins:RuntimeError"


@pytest.mark.parametrize("form", ["gather", "TaskGroup", "timeout", "wait_for"])
def test_activity_in_flight_with_a_compensation_is_awaited_recorded_and_undone(form: str) -> None:
    async def flow() -> None:
        if form == "gather":
            await asyncio.gather(undoable("charge"), act("print_label"))
        elif form == "TaskGroup":
            async with asyncio.TaskGroup() as group:
                group.create_task(undoable("charge"))
                group.create_task(act("print_label"))
        elif form == "timeout":
            async with asyncio.timeout(2):
                await undoable("charge")
        else:
            await asyncio.wait_for(undoable("charge"), 2)

    shell = check(flow, plan=planned(charge=5, print_label=(2, ValueError("no paper"))))
    assert shell.status is Status.FAILED
    assert names(shell)[-1] == "undo_charge"
    recorded = [event.activity_id for event in shell.events if event.kind == EventKind.ACTIVITY_COMPLETED]
    assert recorded[-2:] == ["1:charge", "undo.1:undo_charge"]
    assert ("CancelActivity", "1:charge") not in shell.commands


def test_activity_in_flight_without_a_compensation_is_cancelled() -> None:
    async def flow() -> None:
        await asyncio.gather(act("slow"), act("bad"))

    shell = check(flow, plan=planned(slow=50, bad=(1, ValueError("bad"))))
    assert ("CancelActivity", "1:slow") in shell.commands
    assert shell.events[-1].stamp == T0 + 1_000_000


def test_abandoned_activity_that_fails_needs_no_undoing() -> None:
    async def flow() -> None:
        async with asyncio.timeout(1):
            await undoable("charge")

    shell = check(flow, plan=planned(charge=(5, ValueError("declined"))))
    assert names(shell) == ["charge"]
    assert shell.failure["type"] == "builtins:TimeoutError"


def test_retry_of_an_abandoned_activity_with_a_compensation_goes_on() -> None:
    async def flow() -> None:
        async def waiter() -> None:
            async with asyncio.timeout(5):
                await undoable("charge")

        await asyncio.gather(waiter(), act("fails"))

    execution = begin(flow)
    execution.activate(stamp=T0)
    attempt = b'{"attempt":1,"retry_at":%d,"failure":{}}' % (T0 + 9)
    turn = execution.activate([ActivityRetried("t1.1:charge", attempt), failed("1:fails", ValueError())], stamp=T0)
    assert turn.closing is None
    assert [(type(command), id_of(command)) for command in turn.commands] == [(RunActivity, "t1.1:charge")]
    turn = execution.activate([completed("t1.1:charge")], stamp=T0 + 20)
    assert [id_of(command) for command in turn.commands] == ["undo.1:undo_charge"]
    execution.suspend()


def test_retry_of_a_cancelled_activity_is_withdrawn() -> None:
    async def flow() -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(act("slow"))
                tasks.create_task(act("fails"))
        except ExceptionGroup:
            await news.receive()

    execution = begin(flow)
    execution.activate(stamp=T0)
    attempt = b'{"attempt":1,"retry_at":%d,"failure":{}}' % (T0 + 9)
    turn = execution.activate([ActivityRetried("1:slow", attempt), failed("2:fails", ValueError("x"))], stamp=T0)
    assert turn.commands == [CancelActivity("1:slow")]
    assert execution.outstanding() == []
    execution.suspend()


# -- cancelling -------------------------------------------------------------------------------------------


def test_cancel_raises_once_cleans_up_undoes_and_ends_as_cancelled() -> None:
    async def flow() -> None:
        await undoable("reserve")
        try:
            await act("long")
        except asyncio.CancelledError as exc:
            log("cancelled", *exc.args)
            await act("cleanup")
            raise

    shell = check(flow, plan=planned(long=50), cancel_at=5)
    assert shell.status is Status.CANCELLED
    assert shell.trace[-1][1:] == ("cancelled", "enough")
    assert names(shell) == ["reserve", "long", "cleanup", "undo_reserve"]
    assert shell.failure["message"] == "enough"


def test_caught_cancel_completes_the_run() -> None:
    async def flow() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "went home"
        return "no"

    assert check(flow, cancel_at=2).result == "went home"


def test_second_cancel_changes_nothing() -> None:
    async def flow() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return str(await act("cleanup"))
        return "no"

    execution = begin(flow)
    execution.activate(stamp=T0)
    first = execution.activate([CancelRequested(b'"a"', 1)], stamp=T0)
    second = execution.activate([CancelRequested(b'"b"', 2), completed("1:cleanup", "ok")], stamp=T0)
    assert (first.consumed, second.consumed) == ((1,), (2,))
    assert second.closing is not None
    assert second.closing.status is Status.COMPLETED


def test_cancel_in_the_first_turn_reaches_the_run() -> None:
    async def flow() -> None:
        log("began")
        await act("a")

    shell = check(flow, cancel_at=0)
    assert shell.status is Status.CANCELLED
    assert len(shell.trace) == 1


def test_shielded_work_survives_a_cancel() -> None:
    async def flow() -> Any:
        task = asyncio.create_task(act("kept"))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            return ["kept", await task]

    assert check(flow, plan=planned(kept=5), cancel_at=1).result == ["kept", "kept"]


def test_cancel_while_a_child_task_works_reaches_the_child() -> None:
    async def child() -> None:
        try:
            await act("long")
        finally:
            log("child", await act("cleanup"))

    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    shell = check(flow, plan=planned(long=50), cancel_at=1)
    assert shell.status is Status.CANCELLED
    assert shell.trace[-1][1:] == ("child", "cleanup")


def test_cancel_waits_for_what_has_to_be_undone() -> None:
    async def flow() -> None:
        await undoable("charge")

    shell = check(flow, plan=planned(charge=9), cancel_at=1)
    assert shell.status is Status.CANCELLED
    assert names(shell) == ["charge", "undo_charge"]


def test_run_that_cancels_itself_is_cancelled() -> None:
    async def flow() -> None:
        raise asyncio.CancelledError

    shell = check(flow)
    assert shell.status is Status.CANCELLED
    assert "by itself" in shell.failure["message"]


def test_messages_come_while_a_run_cleans_up() -> None:
    async def flow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            log("last", await news.receive())

    assert check(flow, messages=[Message(5, "bye")], cancel_at=1).trace[-1][1:] == ("last", "bye")
