"""A turn that is recorded but not computed is computed after a crash, with the same outcome."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from romancy import side_effect
from romancy.core.events import Event, EventKind, SendOutcome
from romancy.replay.execution import Execution, Turn
from romancy.replay.journal import RecordedTurn

from .harness import id_of
from .scripting import T0, act, begin, completed, log, message, news, undoable


async def sends_twice() -> list[Any]:
    got: list[Any] = [await act("a")]
    await news.send("one", to="other")
    got.append(side_effect(lambda: 7))
    await news.send("two", to="other")
    got.append(await act("b"))
    return got


class Store:
    """History as the commit writes it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.drained = 0

    def commit(self, turn: Turn, *outcomes: SendOutcome) -> None:
        """Append a turn's notes, and the outcomes of its sends as undrained events of the next turn."""
        rows: list[tuple[Any, ...]] = [(turn.number, turn.stamp, *note) for note in turn.notes]
        self.drained = len(self.events) + len(rows)
        sends = [command for command in turn.commands if type(command).__name__ == "Send"]
        for send, outcome in zip(sends, outcomes, strict=True):
            rows.append((turn.number + 1, turn.stamp, EventKind.MESSAGE_SENT, id_of(send), b"%d" % outcome))
        self.events += [Event(len(self.events) + number, *row) for number, row in enumerate(rows)]

    def load(self, fn: Any) -> tuple[Execution, RecordedTurn | None]:
        """Come back after a crash."""
        execution = begin(fn)
        return execution, execution.replay(self.events, drained_seq=self.drained, started_at=T0)


def go_on(execution: Execution, pending: RecordedTurn | None) -> Turn:
    assert pending is not None
    return execution.activate(pending.releases, stamp=pending.stamp, is_recorded=True)


def test_crash_between_a_sends_commit_and_its_turn() -> None:
    store = Store()
    execution = begin(sends_twice)
    execution.activate(stamp=T0)
    store.commit(execution.activate([completed("1:a", "A")], stamp=T0 + 5), SendOutcome.SENT)
    assert [(event.turn, event.stamp) for event in store.events] == [(2, T0 + 5), (3, T0 + 5)]

    turn = None
    for _ in range(2):  # it may crash again before the turn is committed
        execution.suspend()
        execution, pending = store.load(sends_twice)
        turn = go_on(execution, pending)
        assert (turn.number, turn.stamp) == (3, T0 + 5)
        assert [note.kind for note in turn.notes] == [EventKind.SIDE_EFFECT]
        assert [id_of(command) for command in turn.commands] == ["4:news"]
    assert turn is not None
    store.commit(turn, SendOutcome.SENT)

    execution.suspend()
    execution, pending = store.load(sends_twice)
    turn = go_on(execution, pending)
    assert [id_of(command) for command in turn.commands] == ["5:b"]
    store.commit(turn)
    execution.suspend()
    execution, pending = store.load(sends_twice)
    assert pending is None
    turn = execution.activate([completed("5:b", "B")], stamp=T0 + 9)
    assert turn.closing is not None
    assert turn.closing.note.payload == b'["A",7,"B"]'


def test_send_in_the_first_turn() -> None:
    async def flow() -> str:
        await news.send("one", to="other")
        return "sent"

    store = Store()
    execution = begin(flow)
    store.commit(execution.activate(stamp=T0), SendOutcome.SENT)
    assert store.drained == 0
    execution.suspend()
    execution, pending = store.load(flow)
    turn = go_on(execution, pending)
    assert turn.number == 2
    assert turn.closing is not None


def test_message_that_waits_is_received_in_the_recorded_turn() -> None:
    async def flow() -> Any:
        await news.send("one", to="other")
        return await news.receive()

    store = Store()
    execution = begin(flow)
    store.commit(execution.activate([message("waiting", 3)], stamp=T0), SendOutcome.SENT)
    execution.suspend()
    execution, pending = store.load(flow)
    execution.inbox.add(message("waiting", 3))
    turn = go_on(execution, pending)
    assert turn.consumed == (3,)
    assert [note.kind for note in turn.notes] == [EventKind.MESSAGE_RECEIVED, EventKind.RUN_COMPLETED]
    store.commit(turn)
    again = begin(flow)
    kept = [event for event in store.events if event.kind < EventKind.RUN_COMPLETED]
    assert again.replay(kept, drained_seq=len(kept), started_at=T0) is None
    assert again.closing == turn.closing


def test_send_that_nobody_waits_for_any_more_comes_back_quietly() -> None:
    async def flow() -> str:
        task = asyncio.create_task(news.send("one", to="other"))
        await act("a")
        task.cancel()
        return "done"

    store = Store()
    execution = begin(flow)
    first = execution.activate(stamp=T0)
    assert [id_of(command) for command in first.commands] == ["2:a", "1:news"]
    store.commit(first, SendOutcome.SENT)
    turn = execution.activate((store.load(flow)[1] or RecordedTurn(0, 0, [])).releases, stamp=T0, is_recorded=True)
    assert turn.closing is None
    turn = execution.activate([completed("2:a")], stamp=T0)
    assert turn.closing is not None


def test_side_effect_before_the_crash_is_not_repeated() -> None:
    calls: list[int] = []

    def reading() -> int:
        calls.append(1)
        return len(calls)

    async def flow() -> int:
        found = side_effect(reading)
        log(found)
        await act("a")
        return found

    store = Store()
    execution = begin(flow)
    store.commit(execution.activate(stamp=T0))
    execution.suspend()
    execution, pending = store.load(flow)
    assert pending is None
    assert calls == [1]
    turn = execution.activate([completed("2:a")], stamp=T0)
    assert turn.closing is not None
    assert turn.closing.note.payload == b"1"


def test_recorded_release_that_the_code_does_not_get_to_blocks() -> None:
    async def changed() -> None:
        await act("a")
        await act("b")

    store = Store()
    execution = begin(sends_twice)
    execution.activate(stamp=T0)
    store.commit(execution.activate([completed("1:a", "A")], stamp=T0), SendOutcome.SENT)
    execution.suspend()
    execution = begin(changed)
    with pytest.raises(Exception, match="2: history records send 'news'"):
        execution.replay(store.events, drained_seq=store.drained, started_at=T0)
    execution.suspend()


def test_kept_results_are_passed_over_when_the_first_of_them_ends_the_run() -> None:
    """A run that was paused, or blocked, meanwhile goes on from all of them in one turn."""

    async def flow() -> int:
        asked = [asyncio.ensure_future(call) for call in (act("a"), undoable("b"), act("c"))]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        return len(done)

    execution = begin(flow)
    execution.activate(stamp=T0)
    results = [completed(id, "done") for id in ("1:a", "2:b", "3:c")]
    turn = execution.activate(results, stamp=T0 + 1, is_recorded=True)
    assert turn.blocked is None
    assert turn.closing is not None
    assert turn.closing.note.payload == b"1"
