"""A programming error blocks the run, keeps what its turn has got, and mended code goes on from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from romancy import CodecError, activity, side_effect
from romancy.core.events import Event, EventKind, Release
from romancy.core.records import Status
from romancy.replay.execution import Execution, Turn

from .harness import Shell
from .scripting import T0, Outcome, act, begin, completed, failed, log, message, news, undoable


@activity(name="blocking_typed")
async def typed() -> int:
    return 1


def history(*turns: Turn) -> tuple[list[Event], int]:
    """Return the events of turns as storage keeps them, and the number from which on they are undrained."""
    notes = [(turn, note) for turn in turns for note in turn.notes]
    events = [Event(seq, turn.number, turn.stamp, *note) for seq, (turn, note) in enumerate(notes)]
    return events, len(events) - turns[-1].undrained


def resumed(fn: Callable[..., Any], *turns: Turn) -> tuple[Execution, Turn]:
    """Replay with other code, and compute the recorded turn."""
    events, drained = history(*turns)
    execution = begin(fn)
    pending = execution.replay(events, drained_seq=drained, started_at=T0)
    assert pending is not None
    return execution, execution.activate(pending.releases, stamp=pending.stamp, is_recorded=True)


@pytest.mark.parametrize("error", [NameError, AttributeError, ImportError, TypeError, CodecError])
def test_programming_error_blocks_with_its_stack(error: type[Exception]) -> None:
    async def flow() -> None:
        await undoable("reserve")
        raise error("a typo")

    shell = Shell(flow).run()
    blocked = shell.last.blocked
    assert blocked is not None
    assert blocked.message == "a typo"
    assert "test_blocking.py" in blocked.traceback
    assert shell.ids == ["1:reserve"]  # nothing is undone
    assert shell.last.commands == []
    assert shell.last.closing is None


def test_programming_error_in_a_group_blocks() -> None:
    async def child() -> None:
        await act("a")
        raise TypeError("deep")

    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    assert Shell(flow).run().last.blocked is not None


def test_other_errors_fail_the_run() -> None:
    async def flow() -> None:
        raise KeyError("x")

    assert Shell(flow).run().status is Status.FAILED


def test_activitys_own_programming_error_fails_the_run() -> None:
    async def flow() -> None:
        await act("a")

    shell = Shell(flow, plan=lambda activity_id, name: Outcome(1, error=TypeError("in the body"))).run()
    assert shell.status is Status.FAILED
    assert shell.failure["type"] == "builtins:TypeError"


def test_lenient_run_fails_instead() -> None:
    async def flow() -> None:
        await undoable("reserve")
        raise TypeError("a typo")

    shell = Shell(flow, is_lenient=True).run()
    assert shell.status is Status.FAILED
    assert shell.ids == ["1:reserve", "undo.1:undo_reserve"]


def test_result_that_can_not_be_encoded_blocks_or_fails() -> None:
    async def flow() -> object:
        return object()

    assert Shell(flow).run().failure["type"].endswith("CodecError")
    lenient = Shell(flow, is_lenient=True).run()
    assert lenient.status is Status.FAILED
    assert lenient.failure["type"].endswith("CodecError")


def test_argument_that_can_not_be_encoded_is_refused_at_the_call() -> None:
    async def flow() -> str:
        with pytest.raises(CodecError, match="arguments of activity 'a'"):
            await act("a", object())
        return "refused"

    shell = Shell(flow).run()
    assert shell.result == "refused"
    assert shell.commands == []


def test_system_exit_in_workflow_code_blocks() -> None:
    async def flow() -> None:
        raise SystemExit(3)

    shell = Shell(flow).run()
    assert shell.last.blocked is not None
    shell.execution.suspend()


def test_blocked_turn_keeps_its_results_and_nothing_else() -> None:
    async def flow() -> None:
        got = asyncio.gather(act("a"), act("b"), news.receive(), return_exceptions=True)
        log(await got)
        raise TypeError("a typo")

    execution = begin(flow)
    execution.activate(stamp=T0)
    batch: list[Release] = [completed("1:a", 1), message("m"), failed("2:b", ValueError("no"))]
    turn = execution.activate(batch, stamp=T0 + 5)
    assert turn.blocked is not None
    assert [(note.kind, note.activity_id) for note in turn.notes] == [
        (EventKind.ACTIVITY_COMPLETED, "1:a"),
        (EventKind.ACTIVITY_FAILED, "2:b"),
    ]
    assert (turn.undrained, turn.consumed, turn.commands, turn.number) == (2, (), [], 2)
    execution.suspend()


def test_mended_code_goes_on_from_the_kept_results() -> None:
    async def broken() -> str:
        found = await act("a")
        return str(found.typo)

    async def mended() -> str:
        return f"mended {await act('a')}"

    execution = begin(broken)
    execution.activate(stamp=T0)
    blocked = execution.activate([completed("1:a", "result")], stamp=T0 + 5)
    assert blocked.blocked is not None
    execution.suspend()
    _, turn = resumed(mended, blocked)
    assert turn.closing is not None
    assert turn.closing.note.payload == b'"mended result"'
    assert (turn.number, turn.stamp) == (blocked.number, blocked.stamp)
    assert [note.kind for note in turn.notes] == [EventKind.RUN_COMPLETED]


def test_mended_code_may_read_the_world_in_the_kept_turn() -> None:
    async def broken() -> None:
        await act("a")
        raise TypeError

    async def mended() -> Any:
        await act("a")
        return side_effect(lambda: 5)

    execution = begin(broken)
    execution.activate(stamp=T0)
    blocked = execution.activate([completed("1:a")], stamp=T0)
    _, turn = resumed(mended, blocked)
    assert [note.kind for note in turn.notes] == [EventKind.SIDE_EFFECT, EventKind.RUN_COMPLETED]


def test_code_that_is_still_broken_blocks_again_and_loses_nothing() -> None:
    async def broken() -> None:
        await act("a")
        raise TypeError("once")

    async def still_broken() -> None:
        await act("a")
        raise TypeError("twice")

    async def mended() -> Any:
        first = await act("a")
        return [first, side_effect(lambda: 5)]

    execution = begin(broken)
    execution.activate(stamp=T0)
    blocked = execution.activate([completed("1:a", "kept")], stamp=T0)
    _, again = resumed(still_broken, blocked)
    assert again.blocked is not None
    assert again.notes == []
    assert again.undrained == 1  # of the events before
    _, turn = resumed(mended, blocked, again)
    assert turn.closing is not None
    assert turn.closing.note.payload == b'["kept",5]'


def test_result_that_the_failing_turn_had_given_up_is_kept() -> None:
    """Else its activity, which has been done, would be done again: the mended code may want it."""

    async def broken() -> Any:
        loser = asyncio.ensure_future(act("b"))
        found = await act("a")
        loser.cancel()
        return found.typo

    async def mended() -> list[str]:
        other = asyncio.ensure_future(act("b"))
        return [await act("a"), await other]

    async def mended_otherwise() -> Any:
        other = asyncio.ensure_future(act("b"))
        found = await act("a")
        other.cancel()
        return found

    execution = begin(broken)
    execution.activate(stamp=T0)
    blocked = execution.activate([completed("2:a", "first"), completed("1:b", "second")], stamp=T0)
    assert blocked.blocked is not None
    assert [note.activity_id for note in blocked.notes] == ["2:a", "1:b"]
    for code, result in ((mended, b'["first","second"]'), (mended_otherwise, b'"first"')):
        _, turn = resumed(code, blocked)
        assert turn.closing is not None
        assert turn.closing.note.payload == result
        events, _ = history(blocked)
        later = begin(code)
        assert later.replay(events, drained_seq=2, started_at=T0) is None
        assert later.closing == turn.closing


def test_mended_code_may_pass_over_a_kept_result() -> None:
    async def broken() -> None:
        await asyncio.gather(act("a"), act("b"))
        raise TypeError

    async def mended() -> str:
        async with asyncio.TaskGroup() as group:
            loser = group.create_task(act("a"))
            await asyncio.wait({loser, group.create_task(act("b"))}, return_when=asyncio.FIRST_COMPLETED)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        return "first wins"

    execution = begin(broken)
    execution.activate(stamp=T0)
    blocked = execution.activate([completed("1:a"), completed("2:b")], stamp=T0)
    assert blocked.undrained == 2
    _, turn = resumed(mended, blocked)
    assert turn.blocked is None
    assert turn.closing is not None
    # And a later replay, for which all of that is drained, agrees.
    events, _ = history(blocked)
    later = begin(mended)
    assert later.replay(events, drained_seq=2, started_at=T0) is None
    assert later.closing == turn.closing


def test_blocked_first_turn_begins_anew() -> None:
    async def broken() -> None:
        raise TypeError

    execution = begin(broken)
    turn = execution.activate(stamp=T0)
    assert turn.blocked is not None
    assert (turn.number, turn.notes, turn.undrained) == (1, [], 0)


def test_recorded_value_that_does_not_fit_blocks_and_is_kept() -> None:
    async def flow() -> int:
        return await typed()

    execution = begin(flow)
    execution.activate(stamp=T0)
    turn = execution.activate([completed("1:blocking_typed", "text")], stamp=T0)
    assert turn.blocked is not None
    assert "blocking_typed" in turn.blocked.message
    assert [note.activity_id for note in turn.notes] == ["1:blocking_typed"]
    execution.suspend()
