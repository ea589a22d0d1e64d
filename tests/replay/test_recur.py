"""`recur` closes a run and names the next, unless work is unfinished."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from romancy import CodecError, SuspendSignal, recur, workflow
from romancy.core.events import CancelRequested, EventKind, Release
from romancy.core.records import Status
from romancy.replay.suspend import SuspendKind

from .harness import Shell, check
from .scripting import T0, Message, Outcome, act, begin, completed, log, message, news, undoable


@workflow
async def recur_poll(cursor: int) -> None: ...


async def unfinished() -> str:
    task = asyncio.create_task(act("slow"))
    await asyncio.sleep(0)
    try:
        recur(recur_poll(1))
    except RuntimeError as exc:
        await task
        return str(exc)


def closing_of(shell: Shell) -> Any:
    assert shell.last.closing is not None
    return shell.last.closing


def test_recur_closes_the_run_with_the_next_input() -> None:
    async def flow() -> None:
        await act("a")
        recur(recur_poll(7))

    shell = Shell(flow).run()
    closing = closing_of(shell)
    assert (closing.status, closing.note.kind) == (Status.RUNNING, EventKind.RUN_RECURRED)
    assert closing.note.payload == b'{"cursor":7}'
    assert closing.next_call.definition.name == "recur_poll"


def test_recur_names_unfinished_tasks_and_activities() -> None:
    text = Shell(unfinished).run().result
    assert "task t1" in text
    assert "activity 1:slow" in text


def test_recur_names_an_activity_that_a_timeout_gave_up() -> None:
    async def flow() -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(undoable("recur_charge"), 1)
        with pytest.raises(RuntimeError, match="activity 1:recur_charge"):
            recur(recur_poll(1))
        return "refused"

    assert Shell(flow, plan=lambda activity_id, name: Outcome(9)).run().result == "refused"


def test_recur_inside_wait_for() -> None:
    async def inner() -> None:
        recur(recur_poll(2))

    async def flow() -> None:
        await asyncio.wait_for(inner(), 5)

    assert closing_of(Shell(flow).run()).note.payload == b'{"cursor":2}'


def test_recur_in_a_child_task_is_refused() -> None:
    async def inner() -> None:
        recur(recur_poll(2))

    async def flow() -> str:
        with pytest.raises(RuntimeError, match="task root"):
            await asyncio.create_task(inner())
        return "refused"

    assert Shell(flow).run().result == "refused"


def test_finally_around_recur_can_do_nothing_durable() -> None:
    async def flow() -> None:
        try:
            recur(recur_poll(1))
        finally:
            try:
                await act("never")
            except SuspendSignal as signal:
                log("refused", signal.kind.value)
                raise

    shell = Shell(flow).run()
    assert shell.trace[-1][1:] == ("refused", "recur")
    assert shell.commands == []
    assert closing_of(shell).note.kind == EventKind.RUN_RECURRED


def test_recur_is_not_swallowed() -> None:
    async def flow() -> str:
        try:
            recur(recur_poll(1))
        except BaseException:
            return "swallowed"

    assert closing_of(Shell(flow).run()).note.kind == EventKind.RUN_RECURRED


def test_recur_signal_tells_of_the_next_run() -> None:
    caught: list[SuspendSignal] = []

    async def flow() -> None:
        try:
            recur(recur_poll(3))
        except SuspendSignal as signal:
            caught.append(signal)
            raise

    Shell(flow).run()
    assert caught[0].kind is SuspendKind.RECUR
    assert caught[0].instance_id == "i"
    assert caught[0].new_input is not None


def test_recur_carries_what_is_unread() -> None:
    async def flow() -> None:
        await act("a")
        recur(recur_poll(1))

    execution = begin(flow)
    execution.activate([message("early", 1)], stamp=T0)
    batch: list[Release] = [message("between", 2), completed("1:a"), message("late", 3), CancelRequested(b'"why"', 4)]
    turn = execution.activate(batch, stamp=T0)
    assert turn.closing is not None
    assert turn.consumed == ()
    assert [item.inbox_seq for item in execution.inbox.unread()] == [1, 2, 3, 4]


def test_next_run_goes_on_with_the_inbox_of_the_last() -> None:
    async def first() -> None:
        await act("a")
        recur(recur_poll(1))

    async def second() -> Any:
        return [await news.receive(), await news.receive()]

    old, new = begin(first), begin(second, run=1)
    old.activate(stamp=T0)
    old.activate([message("one", 1), completed("1:a"), message("two", 2)], stamp=T0)
    new.inbox = old.inbox
    turn = new.activate(stamp=T0)
    assert turn.closing is not None
    assert turn.closing.note.payload == b'["one","two"]'
    assert turn.consumed == (1, 2)


def test_next_run_gets_the_cancel_that_the_last_did_not() -> None:
    async def first() -> None:
        await act("a")
        recur(recur_poll(1))

    async def second() -> None:
        await asyncio.sleep(60)

    old, new = begin(first), begin(second, run=1)
    old.activate(stamp=T0)
    old.activate([completed("1:a"), CancelRequested(b'"why"', 4)], stamp=T0)
    new.inbox = old.inbox
    turn = new.activate(stamp=T0)
    assert turn.closing is not None
    assert turn.closing.status is Status.CANCELLED
    assert turn.consumed == (4,)


def test_recur_refuses_what_is_no_call_of_a_workflow() -> None:
    async def flow() -> str:
        call = act("a")
        with pytest.raises(TypeError, match="needs the call of a workflow"):
            recur(call)
        await call
        return "refused"

    assert Shell(flow).run().result == "refused"


def test_recur_refuses_arguments_that_do_not_fit() -> None:
    async def flow() -> str:
        with pytest.raises(CodecError, match="cursor"):
            recur(recur_poll(cast("int", "x")))  # what is refused
        return "refused"

    assert Shell(flow).run().result == "refused"


def test_recur_does_not_replay_a_message_twice() -> None:
    async def flow() -> None:
        log(await news.receive())
        recur(recur_poll(1))

    shell = Shell(flow, messages=[Message(1, "a"), Message(2, "b")]).run()
    assert [line[1] for line in shell.trace] == ["a"]
    assert shell.last.consumed == (1,)


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("is_swallowing", [False, True])
def test_run_out_of_time_opens_no_other(*, compensate: bool, is_swallowing: bool) -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await act("close")

    async def flow() -> str:
        await undoable("charge")
        generator = numbers()
        await anext(generator)
        try:
            await news.receive()
        except asyncio.CancelledError:
            with contextlib.suppress(BaseException if is_swallowing else ValueError):
                recur(recur_poll(1), compensate=compensate)
        return "recur came back"

    shell = check(flow, time_limit=5)
    assert shell.status is Status.TIMED_OUT
    assert "time limit" in shell.failure["message"]
    assert [activity_id.partition(":")[2] for activity_id in shell.ids] == ["charge", "close", "undo_charge"]
