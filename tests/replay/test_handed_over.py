"""Attempts that are handed over, and answered from outside: in a run's memory and in its history."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from romancy.core.commands import CancelActivity, RunActivity
from romancy.core.events import (
    ActivityAnswered,
    ActivityFailed,
    ActivityHandedOver,
    ActivityRetried,
    Arrival,
    Attempt,
    EventKind,
    HandOver,
    OutsideAnswer,
    TimerFired,
)
from romancy.core.failures import encode_failure, failure_of
from romancy.core.records import Status
from romancy.replay.execution import Execution, Turn

from .harness import id_of
from .scripting import SECOND, T0, act, begin, completed, events_of, failed, message, news, undoable

_FAILURE = encode_failure(failure_of(ConnectionError("away")))


def handed_over(activity_id: str, attempt: int = 1, deadline: int = 0) -> ActivityHandedOver:
    return ActivityHandedOver(activity_id, msgspec.json.encode(HandOver(attempt, deadline)))


def retried(activity_id: str, attempt: int = 1, retry_at: int = T0) -> ActivityRetried:
    value = Attempt(attempt, retry_at, msgspec.Raw(_FAILURE), msgspec.Raw(b"[7]"))
    return ActivityRetried(activity_id, msgspec.json.encode(value))


def answer(
    activity_id: str, value: Any = "signed", *, attempt: int = 1, run: int = 0, seq: int = 1
) -> ActivityAnswered:
    result = msgspec.Raw(msgspec.json.encode(value))
    return ActivityAnswered(msgspec.json.encode(OutsideAnswer(run, activity_id, attempt, result=result)), seq)


def refusal(activity_id: str, *, attempt: int = 1, seq: int = 1, is_final: bool = False) -> ActivityAnswered:
    value = OutsideAnswer(0, activity_id, attempt, failure=msgspec.Raw(_FAILURE), is_final=is_final)
    return ActivityAnswered(msgspec.json.encode(value), seq)


async def signs() -> Any:
    return [await act("sign"), await act("file")]


def kinds(turn: Turn) -> list[EventKind]:
    return [note.kind for note in turn.notes]


def replayed(fn: Any, *turns: Turn) -> Execution:
    """Come back from what the turns have recorded."""
    execution = begin(fn)
    events = events_of(*turns)
    assert execution.replay(events, drained_seq=len(events), started_at=T0) is None
    return execution


def state(execution: Execution) -> tuple[Any, ...]:
    operations = execution.operations
    return list(operations.pending), list(operations.underway), operations.delays.next_due(), len(operations.delays)


def test_handed_over_activity_is_not_outstanding_live_and_on_replay() -> None:
    live = begin(signs)
    first = live.activate(stamp=T0)
    turn = live.activate([handed_over("1:sign", deadline=T0 + 9)], stamp=T0 + 1)
    assert kinds(turn) == [EventKind.ACTIVITY_HANDED_OVER]
    assert turn.commands == []
    for execution in (live, replayed(signs, first, turn)):
        assert execution.outstanding() == []
        assert state(execution) == (["1:sign"], [], T0 + 9, 1)
        last = execution.activate([answer("1:sign")], stamp=T0 + 2)
        assert (kinds(last), last.consumed) == ([EventKind.ACTIVITY_COMPLETED], (1,))
        assert [id_of(command) for command in last.commands] == ["2:file"]
        execution.suspend()


def test_answer_to_an_attempt_whose_body_runs_completes_it_and_lets_the_body_be() -> None:
    execution = begin(signs)
    execution.activate(stamp=T0)
    turn = execution.activate([answer("1:sign"), handed_over("1:sign")], stamp=T0 + 1)
    assert kinds(turn) == [EventKind.ACTIVITY_COMPLETED]
    assert turn.commands[0] == CancelActivity("1:sign", is_over=True)
    execution.suspend()


def test_answer_in_the_turn_that_asks_is_not_followed_by_a_body() -> None:
    execution = begin(signs)
    turn = execution.activate([answer("1:sign")], stamp=T0)
    assert kinds(turn) == [EventKind.ACTIVITY_COMPLETED]
    assert [id_of(command) for command in turn.commands if isinstance(command, RunActivity)] == ["2:file"]
    execution.suspend()


@pytest.mark.parametrize(
    "late", [answer("1:sign", attempt=2), answer("1:sign", run=1), answer("7:other"), refusal("1:sign", attempt=9)]
)
def test_answer_to_an_attempt_that_is_over_is_consumed_without_a_note(late: ActivityAnswered) -> None:
    execution = begin(signs)
    execution.activate(stamp=T0)
    turn = execution.activate([late], stamp=T0 + 5)
    assert (turn.notes, turn.commands, turn.consumed, turn.closing) == ([], [], (1,), None)
    assert execution.loop.stamp == T0  # a replay will not know of it
    execution.suspend()


def test_second_answer_of_a_batch_is_consumed_and_dropped() -> None:
    execution = begin(signs)
    execution.activate(stamp=T0)
    turn = execution.activate([answer("1:sign", "a"), answer("1:sign", "b", seq=2)], stamp=T0 + 1)
    assert (kinds(turn), turn.consumed) == ([EventKind.ACTIVITY_COMPLETED], (1, 2))
    execution.suspend()


def test_failure_from_outside_is_decided_by_the_shell_and_recorded() -> None:
    asked: list[tuple[str, int, bool]] = []

    def decide(command: RunActivity, failure: bytes, *, is_final: bool) -> ActivityFailed | ActivityRetried:
        asked.append((command.activity_id, command.attempt, is_final))
        return ActivityFailed(command.activity_id, failure) if is_final else retried("1:sign", command.attempt, T0 + 50)

    live = begin(signs, after_failure=decide)
    first = live.activate(stamp=T0)
    second = live.activate([handed_over("1:sign"), refusal("1:sign")], stamp=T0 + 1)
    assert kinds(second) == [EventKind.ACTIVITY_HANDED_OVER, EventKind.ACTIVITY_RETRIED]
    (command,) = second.commands
    assert isinstance(command, RunActivity)
    assert (command.attempt, command.not_before, command.details) == (2, T0 + 50, b"[7]")
    back = replayed(signs, first, second)
    assert state(back) == state(live) == (["1:sign"], [], T0 + 50, 1)
    back.suspend()
    turn = live.activate([refusal("1:sign", attempt=2, seq=2, is_final=True)], stamp=T0 + 2)
    assert asked == [("1:sign", 1, False), ("1:sign", 2, True)]
    assert turn.closing is not None
    assert turn.closing.status is Status.FAILED
    assert turn.consumed == (2,)


def test_releases_of_an_attempt_that_was_failed_from_outside_are_passed_over() -> None:
    def decide(command: RunActivity, failure: bytes, *, is_final: bool) -> ActivityRetried:
        return retried(command.activity_id, command.attempt)

    execution = begin(signs, after_failure=decide)
    execution.activate(stamp=T0)
    late = ActivityFailed("1:sign", _FAILURE, attempt=1)
    turn = execution.activate([refusal("1:sign"), handed_over("1:sign"), retried("1:sign"), late], stamp=T0 + 1)
    assert kinds(turn) == [EventKind.ACTIVITY_RETRIED]
    execution.suspend()


def test_result_in_the_turn_that_asks_for_another_attempt_takes_that_back() -> None:
    def decide(command: RunActivity, failure: bytes, *, is_final: bool) -> ActivityRetried:
        return retried(command.activity_id, command.attempt)

    execution = begin(signs, after_failure=decide)
    first = execution.activate(stamp=T0)
    turn = execution.activate([refusal("1:sign"), completed("1:sign")], stamp=T0 + 1)
    assert kinds(turn) == [EventKind.ACTIVITY_RETRIED, EventKind.ACTIVITY_COMPLETED]
    assert [id_of(command) for command in turn.commands] == ["2:file"]
    back = replayed(signs, first, turn)
    assert state(back) == state(execution)
    back.suspend()
    execution.suspend()


def test_back_off_and_hand_over_are_due_in_their_order_and_go_on_in_memory() -> None:
    async def flow() -> Any:
        return await asyncio.gather(act("a"), act("b"), act("c"), act("d"), return_exceptions=True)

    execution = begin(flow)
    execution.activate(stamp=T0)
    releases: list[Arrival] = [
        handed_over("1:a", deadline=T0 + 30),
        retried("2:b", retry_at=T0 + 10),
        handed_over("3:c"),
    ]
    execution.activate(releases, stamp=T0)
    operations = execution.operations
    assert state(execution) == (["1:a", "2:b", "3:c", "4:d"], ["4:d"], T0 + 10, 3)
    assert operations.begin_due(T0 + 9) == []
    due = operations.begin_due(T0 + 30)
    assert [(delay.activity_id, delay.is_handed_over) for delay, _ in due] == [("2:b", False), ("1:a", True)]
    assert state(execution) == (["1:a", "2:b", "3:c", "4:d"], ["4:d", "2:b", "1:a"], None, 1)
    late = failed("1:a", ValueError("out of time"))
    turn = execution.activate([completed("2:b"), late, answer("3:c")], stamp=T0 + 40)
    assert len(turn.notes) == 3
    assert state(execution) == (["4:d"], ["4:d"], None, 0)
    execution.suspend()


def test_attempt_that_was_repeated_is_handed_over_on_replay() -> None:
    live = begin(signs)
    turns = [live.activate(stamp=T0), live.activate([retried("1:sign", retry_at=T0 + 3)], stamp=T0 + 1)]
    live.operations.begin_due(T0 + 3)
    turns.append(live.activate([handed_over("1:sign", attempt=2, deadline=T0 + 9)], stamp=T0 + 4))
    back = replayed(signs, *turns)
    assert state(back) == state(live) == (["1:sign"], [], T0 + 9, 1)
    assert back.operations.delays.is_handed_over("1:sign")
    for execution in (live, back):
        execution.suspend()


def test_withdrawn_handed_over_activity_leaves_nothing_behind() -> None:
    async def flow() -> Any:
        signing = asyncio.ensure_future(act("sign"))
        await news.receive()
        signing.cancel()
        return await act("file")

    execution = begin(flow)
    execution.activate(stamp=T0)
    execution.activate([handed_over("1:sign", deadline=T0 + 5)], stamp=T0 + 1)
    assert execution.operations.delays.next_due() == T0 + 5
    execution.activate([message("stop", 1)], stamp=T0 + 2)
    assert state(execution) == (["3:file"], ["3:file"], None, 0)
    turn = execution.activate([answer("1:sign", seq=2)], stamp=T0 + 3)
    assert (turn.notes, turn.consumed) == ([], (2,))
    execution.suspend()


def test_withdrawn_handed_over_activity_with_a_compensation_is_listened_to_and_undone() -> None:
    async def flow() -> Any:
        async with asyncio.timeout(5):
            await undoable("handed_sign")

    live = begin(flow)
    live.activate(stamp=T0)
    live.activate([handed_over("1:handed_sign")], stamp=T0 + 1)
    timers = live.timers.due(T0 + 5 * SECOND)
    assert len(timers) == 1
    turn = live.activate([TimerFired(timers[0][1])], stamp=T0 + 5 * SECOND)
    assert turn.closing is None  # it waits for what may have to be undone
    turn = live.activate([answer("1:handed_sign")], stamp=T0 + 6 * SECOND)
    assert [id_of(command) for command in turn.commands] == ["undo.1:undo_handed_sign"]
    live.suspend()


def test_answer_that_can_not_be_read_blocks_and_is_not_kept() -> None:
    execution = begin(signs)
    execution.activate(stamp=T0)
    broken = ActivityAnswered(b'{"run":0', 1)
    turn = execution.activate([completed("9:other"), broken], stamp=T0 + 1)
    assert turn.blocked is not None
    assert (turn.notes, turn.consumed) == ([], ())
    execution.suspend()


def test_hand_over_of_a_turn_that_fails_is_kept() -> None:
    async def flow() -> Any:
        signing = asyncio.ensure_future(act("sign"))
        await act("file")
        wrong: Any = None
        wrong.no_such_attribute()
        await signing

    execution = begin(flow)
    first = execution.activate(stamp=T0)
    turn = execution.activate([handed_over("1:sign"), completed("2:file")], stamp=T0 + 1)
    assert turn.blocked is not None
    assert kinds(turn) == [EventKind.ACTIVITY_HANDED_OVER, EventKind.ACTIVITY_COMPLETED]
    assert first.blocked is None
    execution.suspend()


def test_answers_to_many_handed_over_activities_take_linear_time() -> None:
    def seconds(count: int) -> float:
        async def flow() -> Any:
            got = await asyncio.wait_for(asyncio.gather(*(act("sign", number) for number in range(count))), 99)
            return len(got)

        execution = begin(flow)
        execution.activate(stamp=T0)
        ids = list(execution.operations.pending)
        execution.activate([handed_over(one, deadline=T0 + 60 * SECOND) for one in ids], stamp=T0)
        began = time.perf_counter()
        for one in ids:
            assert execution.operations.delays.next_due() == T0 + 60 * SECOND
            execution.activate([answer(one)], stamp=T0)
        assert execution.closing is not None
        return time.perf_counter() - began

    seconds(10)
    assert seconds(4_000) < 30 * seconds(400)
