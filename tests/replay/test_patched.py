"""`patched`: runs under way keep the old path, others take the new one, and a replay answers as the run did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from romancy import DefinitionError, NondeterminismError, OutsideWorkflowError, patched, side_effect
from romancy.core.events import Event, EventKind, Release
from romancy.replay.execution import Execution, Turn

from .harness import Shell, check, id_of
from .scripting import T0, Message, act, begin, completed, events_of, log, message, news

Flow = Callable[[], Any]


def played(fn: Flow, *batches: Sequence[Release]) -> tuple[Execution, list[Event]]:
    """Run code live: its first turn, and a turn for each batch; return its history."""
    execution = begin(fn)
    turns = [execution.activate(stamp=T0)]
    turns += [execution.activate(batch, stamp=T0 + number) for number, batch in enumerate(batches, 1)]
    return execution, events_of(*turns)


def replayed(fn: Flow, events: list[Event]) -> Execution:
    """Come to where a history ends by other code."""
    execution = begin(fn)
    execution.replay(events, drained_seq=len(events), started_at=T0)
    return execution


def asked(turn: Turn) -> list[str]:
    return [id_of(command) for command in turn.commands]


def patches_in(events: Sequence[Event]) -> list[str | None]:
    return [event.activity_id for event in events if event.kind == EventKind.PATCHED]


async def two_acts() -> list[Any]:
    return [await act("a"), await act("b")]


async def patched_between() -> list[Any]:
    first = await act("a")
    if patched("new"):
        return [first, await act("c")]
    return [first, await act("b")]


async def patched_at_first() -> list[Any]:
    if patched("new"):
        return [await act("c")]
    return [await act("a"), await act("b")]


def test_new_run_takes_the_patch_at_every_replay() -> None:
    live = check(patched_between)
    assert live.ids == ["1:a", "2:c"]
    assert patches_in(live.events) == ["patch:new"]


def test_patch_of_the_first_turn_is_taken_at_every_replay() -> None:
    live = check(patched_at_first)
    assert live.ids == ["1:c"]
    assert [event.turn for event in live.events if event.kind == EventKind.PATCHED] == [1]


def test_patch_takes_no_position() -> None:
    async def with_patches() -> list[Any]:
        patched("one")
        found = [await act("a")]
        task = asyncio.create_task(act("in task"))
        patched("two")
        found += [side_effect(lambda: 7), await task, await act("b")]
        return found

    async def without() -> list[Any]:
        found = [await act("a")]
        task = asyncio.create_task(act("in task"))
        found += [side_effect(lambda: 7), await task, await act("b")]
        return found

    def ids(shell: Shell) -> list[str | None]:
        return [event.activity_id for event in shell.events if event.kind != EventKind.PATCHED]

    assert ids(check(with_patches)) == ids(check(without))


def test_run_under_way_keeps_the_old_path_where_it_went_by() -> None:
    _, events = played(two_acts, [completed("1:a")])
    execution = replayed(patched_between, events)
    assert [call.activity_id for call in execution.pending_calls()] == ["2:b"]
    turn = execution.activate([completed("2:b")], stamp=T0)
    assert turn.closing is not None
    assert patches_in(events_of(turn)) == []


def test_run_under_way_takes_a_patch_that_it_reaches_later() -> None:
    execution, events = played(two_acts)
    assert events == []
    live = replayed(patched_between, events)  # nothing is recorded of the first turn
    first = live.activate(stamp=T0)
    second = live.activate([completed("1:a")], stamp=T0)
    assert asked(second) == ["2:c"]
    events = events_of(first, second)
    assert patches_in(events) == ["patch:new"]
    assert [call.activity_id for call in replayed(patched_between, events).pending_calls()] == ["2:c"]
    assert [call.activity_id for call in execution.pending_calls()] == ["1:a"]


async def loops_without() -> None:
    for _ in range(4):
        log("old")
        await act("a")


async def loops_with() -> None:
    for _ in range(4):
        log("new" if patched("loop") else "old")
        await act("a")


def test_first_answer_holds_for_the_whole_run() -> None:
    _, events = played(loops_without, [completed("1:a")])
    shell = Shell(loops_with)
    shell.events = events
    shell.drained = len(events)
    shell.execution = replayed(loops_with, events)
    turns = [shell.execution.activate([completed(f"{n}:a")], stamp=T0 + 9) for n in (2, 3, 4)]
    assert turns[-1].closing is not None
    assert patches_in(events_of(*turns)) == []
    assert [line[1] for line in check(loops_with).trace] == ["new"] * 4


def test_run_under_way_keeps_the_old_path_after_every_number_of_replays() -> None:
    _, events = played(loops_without, [completed("1:a")])
    for number in (2, 3, 4):
        execution = replayed(loops_with, events)
        turn = execution.activate([completed(f"{number}:a")], stamp=T0 + number)
        events += [
            Event(len(events) + index, number + 1, turn.stamp, *note)
            for index, note in enumerate(turn.notes)
            if note.kind < EventKind.RUN_COMPLETED
        ]
        execution.suspend()
    assert patches_in(events) == []
    assert len(events) == 4


def test_two_patches_of_a_run_are_answered_each_for_itself() -> None:
    async def second_change() -> list[Any]:
        first = await act("a")
        found = [first, await act("c" if patched("new") else "b")]
        if patched("newer"):
            found.append(await act("d"))
        return found

    _, events = played(two_acts, [completed("1:a")])
    execution = replayed(second_change, events)
    assert [call.activity_id for call in execution.pending_calls()] == ["2:b"]
    turn = execution.activate([completed("2:b")], stamp=T0)
    assert asked(turn) == ["3:d"]
    assert patches_in(events_of(turn)) == ["patch:newer"]


async def waits_first() -> Any:
    await news.receive()
    return await act("a")


async def patched_before_the_wait() -> Any:
    if patched("new"):
        await act("c")
    await news.receive()
    return await act("a")


def test_run_that_has_parked_without_recording_anything_keeps_the_old_path() -> None:
    execution = begin(patched_before_the_wait)
    execution.has_parked = True
    turn = execution.activate(stamp=T0)
    assert (turn.notes, turn.commands) == ([], [])
    second = execution.activate([message("go")], stamp=T0)
    assert asked(second) == ["2:a"]
    execution = replayed(patched_before_the_wait, events_of(turn, second))
    assert [call.activity_id for call in execution.pending_calls()] == ["2:a"]


def test_run_that_has_parked_takes_a_patch_that_it_reaches_later() -> None:
    async def patched_after_the_wait() -> Any:
        await news.receive()
        return await act("c" if patched("new") else "a")

    execution = begin(patched_after_the_wait)
    execution.has_parked = True
    execution.activate(stamp=T0)
    assert asked(execution.activate([message("go")], stamp=T0)) == ["2:c"]


def test_crash_before_the_first_turn_is_committed_changes_no_answer() -> None:
    turns = [begin(patched_at_first).activate(stamp=T0) for _ in range(2)]
    assert [asked(turn) for turn in turns] == [["1:c"]] * 2
    assert events_of(turns[0]) == events_of(turns[1])
    assert patches_in(events_of(turns[0])) == ["patch:new"]


def refused(fn: Flow, events: list[Event]) -> NondeterminismError:
    with pytest.raises(NondeterminismError) as caught:
        replayed(fn, events)
    return caught.value


def test_removed_patch_is_an_error_that_says_so() -> None:
    async def without() -> list[Any]:
        return [await act("a"), await act("c")]

    _, events = played(patched_between, [completed("1:a")])
    error = refused(without, events)
    assert "took patch 'new'" in str(error)
    assert "put the call back" in str(error)
    assert error.activity_id == "patch:new"


def test_removed_patch_is_named_where_the_code_parts_from_history() -> None:
    _, events = played(patched_between, [completed("1:a")], [completed("2:c")])
    error = str(refused(two_acts, [*events[:-1], events[-1]]))
    assert "2:" in error
    assert "patched('new') was removed, put it back" in error


def test_removed_patch_can_not_be_swallowed() -> None:
    async def swallows() -> Any:
        try:
            return await two_acts()
        except BaseException:
            return "swallowed"

    _, events = played(patched_between, [completed("1:a")], [completed("2:c")])
    refused(swallows, events)


def test_patch_in_an_earlier_place_than_it_was_recorded_is_an_error() -> None:
    async def moved() -> list[Any]:
        found: list[Any] = [await act("z")] if patched("new") else []
        return [*found, await act("a"), await act("c" if patched("new") else "b")]

    _, events = played(patched_between, [completed("1:a")])
    error = str(refused(moved, events))
    assert "patched('new') in turn 1" in error
    assert "turn 2" in error
    assert "test_patched.py" in error


def test_patch_whose_first_place_is_retired_is_met_in_a_later_one() -> None:
    async def both() -> list[Any]:
        found = [await act("c" if patched("new") else "a")]
        return [*found, await act("d" if patched("new") else "b")]

    async def one() -> list[Any]:
        return [await act("c"), await act("d" if patched("new") else "b")]

    _, events = played(both, [completed("1:c")])
    assert [call.activity_id for call in replayed(one, events).pending_calls()] == ["2:d"]


def test_cleanup_of_a_run_that_leaves_memory_records_no_patch() -> None:
    async def cleans_up() -> None:
        try:
            await act("a")
        finally:
            patched("late")
            log("went on")

    execution = begin(cleans_up)
    turn = execution.activate(stamp=T0)
    execution.suspend()
    assert turn.notes == []


def test_patch_in_a_task_is_answered_the_same_at_every_replay() -> None:
    async def branch(name: str) -> Any:
        await act(name)
        return await act("new" if patched("branch") else "old")

    async def flow() -> Any:
        log(await asyncio.gather(branch("x"), branch("y"), news.receive()))

    live = check(flow, messages=[Message(3, "m")])
    assert patches_in(live.events) == ["patch:branch"]


@pytest.mark.parametrize("id", ["", "x" * 201, "two\nlines", 7, None])
def test_patch_needs_a_name(id: Any) -> None:
    async def flow() -> str:
        with pytest.raises(DefinitionError, match="can't name a patch"):
            patched(cast("str", id))
        return "refused"

    assert Shell(flow).run().result == "refused"


def test_patched_outside_of_a_workflow_is_refused() -> None:
    with pytest.raises(OutsideWorkflowError, match="patched"):
        patched("x")
