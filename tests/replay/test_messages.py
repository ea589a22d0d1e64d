"""Messages wait in the inbox until a receive asks for them, and none is lost or taken twice."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import anyio
import pytest

from romancy import Channel, InstanceClosedError, InstanceNotFoundError
from romancy.core.events import EventKind, Release, SendOutcome, TimerFired

from .harness import Shell, check
from .scripting import SECOND, T0, Message, act, begin, completed, events_of, log, message, news

jobs = Channel("jobs", cast("type[Any]", Any))


def test_receive_takes_messages_in_their_order() -> None:
    async def flow() -> list[Any]:
        got: list[Any] = []
        for _ in range(3):
            got.append(await news.receive())
            log(got[-1])
        return got

    assert check(flow, messages=[Message(1, number) for number in range(3)]).result == [0, 1, 2]


def test_message_that_comes_before_its_receive_waits() -> None:
    async def flow() -> Any:
        await asyncio.sleep(10)
        return await news.receive()

    assert check(flow, messages=[Message(1, "early")]).result == "early"


def test_message_is_consumed_by_the_turn_that_releases_it() -> None:
    async def flow() -> Any:
        await act("a")
        return await news.receive()

    execution = begin(flow)
    execution.activate(stamp=T0)
    assert execution.activate([message("x", 7)], stamp=T0).consumed == ()
    turn = execution.activate([completed("1:a")], stamp=T0)
    assert turn.consumed == (7,)
    assert [(note.kind, note.activity_id) for note in turn.notes[:2]] == [
        (EventKind.ACTIVITY_COMPLETED, "1:a"),
        (EventKind.MESSAGE_RECEIVED, "2:news"),
    ]


def test_receive_is_never_answered_in_the_drain_that_made_it() -> None:
    async def flow() -> list[str]:
        order: list[str] = []

        async def take() -> None:
            await news.receive()
            order.append("message")

        task = asyncio.create_task(take())
        for number in range(3):
            await asyncio.sleep(0)
            order.append(f"tick {number}")
        await task
        return order

    shell = check(flow, messages=[Message(0, "there")])
    assert shell.result == ["tick 0", "tick 1", "tick 2", "message"]


def test_two_receivers_are_served_in_their_order() -> None:
    async def flow() -> list[Any]:
        return await asyncio.gather(*(news.receive() for _ in range(3)))

    assert check(flow, messages=[Message(1 + number, number) for number in range(3)]).result == [0, 1, 2]


def test_channels_do_not_mix() -> None:
    async def flow() -> list[Any]:
        return [await news.receive(), await jobs.receive(), await news.receive()]

    messages = [Message(1, "j", "jobs"), Message(2, "n1"), Message(3, "n2")]
    assert check(flow, messages=messages).result == ["n1", "j", "n2"]


def test_cancelled_receive_loses_nothing() -> None:
    async def flow() -> Any:
        with anyio.move_on_after(1):
            await news.receive()
        task = asyncio.create_task(news.receive())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(news.receive(), 1)
        return await news.receive()

    assert check(flow, messages=[Message(5, "kept")]).result == "kept"


def test_receive_with_a_timeout_raises_and_loses_nothing() -> None:
    async def flow() -> list[Any]:
        with pytest.raises(TimeoutError, match="news"):
            await news.receive(timeout=2)
        return [await news.receive(timeout=60), await news.receive(timeout=60)]

    shell = check(flow, messages=[Message(5, "a"), Message(6, "b")])
    assert shell.result == ["a", "b"]
    assert [event.kind for event in shell.events].count(EventKind.TIMER_FIRED) == 1


@pytest.mark.parametrize("timeout", [0, 0.0, -1, 0.000_000_001])
def test_receive_with_no_time_takes_what_is_there(timeout: float) -> None:
    async def flow() -> list[Any]:
        await asyncio.sleep(10)
        got: list[Any] = []
        try:
            while True:
                got.append(await news.receive(timeout=timeout))
        except TimeoutError:
            return [*got, await news.receive()]

    messages = [Message(1, "one"), Message(2, "two"), Message(30, "late")]
    assert check(flow, messages=messages).result == ["one", "two", "late"]


@pytest.mark.parametrize("is_message_first", [True, False])
@pytest.mark.parametrize("form", ["asyncio.timeout", "timeout="])
def test_message_and_timer_together_agree_with_replay(*, is_message_first: bool, form: str) -> None:
    async def flow() -> Any:
        try:
            if form == "timeout=":
                return await news.receive(timeout=5)
            async with asyncio.timeout(5):
                return await news.receive()
        except TimeoutError:
            return ["late", await news.receive()]

    execution = begin(flow)
    first = execution.activate(stamp=T0)
    ((deadline, timer_id),) = execution.timers.due(T0 + 5 * SECOND)
    batch: list[Release] = [message("m"), TimerFired(timer_id)]
    turn = execution.activate(batch if is_message_first else batch[::-1], stamp=deadline)
    assert turn.closing is not None
    assert turn.closing.note.payload == (b'"m"' if is_message_first else b'["late","m"]')

    events = events_of(first, turn)
    assert [event.kind == EventKind.TIMER_FIRED for event in events] == ([False] if is_message_first else [True, False])
    again = begin(flow)
    assert again.replay(events, drained_seq=len(events), started_at=T0) is None
    assert again.closing == turn.closing


def test_buffered_messages_come_before_the_rest_of_the_batch() -> None:
    async def flow() -> list[Any]:
        order: list[Any] = []

        async def reader() -> None:
            await act("open")
            order.append(await news.receive())

        async def other() -> None:
            order.append(await act("other"))

        await asyncio.gather(reader(), other())
        return order

    execution = begin(flow)
    execution.activate(stamp=T0)
    batch: list[Release] = [message("m"), completed("t1.1:open"), completed("t2.1:other", "o")]
    turn = execution.activate(batch, stamp=T0)
    assert turn.closing is not None
    assert turn.closing.note.payload == b'["m","o"]'


def test_try_receive_sees_all_that_came_before_its_turn() -> None:
    async def flow() -> list[Any]:
        await asyncio.sleep(1)
        return [news.try_receive(), news.try_receive(), news.try_receive("nothing")]

    execution = begin(flow)
    execution.activate(stamp=T0)
    batch: list[Release] = [TimerFired("@1"), message("one", 1), message("two", 2), message("other", 3, "jobs")]
    turn = execution.activate(batch, stamp=T0 + 5 * SECOND)
    assert turn.closing is not None
    assert turn.closing.note.payload == b'["one","two","nothing"]'
    assert turn.consumed == (1, 2)
    assert len(execution.inbox.unread()) == 1


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (SendOutcome.SENT, None),
        (SendOutcome.CLOSED, InstanceClosedError),
        (SendOutcome.NOT_FOUND, InstanceNotFoundError),
    ],
)
def test_send_comes_back_with_its_outcome(outcome: SendOutcome, error: type[Exception] | None) -> None:
    async def flow() -> str | None:
        try:
            await news.send("hello", to="other")
        except (InstanceClosedError, InstanceNotFoundError) as exc:
            return type(exc).__name__
        return None

    shell = check(flow, send_outcome=outcome)
    assert shell.result == (error.__name__ if error else None)
    assert shell.commands == [("Send", "1:news")]


def test_sends_of_one_turn_are_asked_for_in_their_order() -> None:
    async def flow() -> None:
        await asyncio.gather(*(news.send(number, to="other") for number in range(3)))

    shell = check(flow)
    assert shell.ids == ["1:news", "2:news", "3:news"]
    assert [event.turn for event in shell.events[:3]] == [2, 2, 2]


def test_message_in_the_inbox_is_received_behind_the_turn_of_a_send() -> None:
    async def flow() -> Any:
        await act("a")
        await news.send("hello", to="other")
        return await news.receive()

    shell = Shell(flow, messages=[Message(0, "waiting")]).run()
    assert shell.result == "waiting"
    assert check(flow, messages=[Message(0, "waiting")]).result == "waiting"


@pytest.mark.parametrize("is_failing", [True, False])
def test_run_that_the_first_of_several_outcomes_ends_passes_over_the_others(*, is_failing: bool) -> None:
    async def flow() -> int:
        sends = [asyncio.ensure_future(news.send(number, to="other")) for number in range(3)]
        if is_failing:
            await asyncio.gather(*sends)
        done, _ = await asyncio.wait(sends, return_when=asyncio.FIRST_COMPLETED)
        return len(done)

    shell = check(flow, send_outcome=SendOutcome.CLOSED if is_failing else SendOutcome.SENT)
    assert [event.kind for event in shell.events[:3]] == [EventKind.MESSAGE_SENT] * 3
    assert shell.events[-1].kind == (EventKind.RUN_FAILED if is_failing else EventKind.RUN_COMPLETED)
    assert len(shell.events) == 4
