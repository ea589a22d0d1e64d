"""Code that differs from what is recorded is found out, and can't swallow that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from romancy import NondeterminismError, side_effect
from romancy.core.events import Event, EventKind

from .harness import Shell
from .scripting import T0, Message, act, activity_of, begin, completed, events_of, news


def recorded(fn: Callable[..., Any], **settings: Any) -> list[Event]:
    """Return the history of a completed run, without its end."""
    shell = Shell(fn, **settings).run()
    assert shell.last.closing is not None
    return [event for event in shell.events if event.kind < EventKind.RUN_COMPLETED]


def replay(fn: Callable[..., Any], events: list[Event]) -> NondeterminismError:
    execution = begin(fn)
    with pytest.raises(NondeterminismError) as caught:
        execution.replay(events, drained_seq=len(events), started_at=T0)
    execution.suspend()
    return caught.value


async def two_activities() -> None:
    await act("x")
    await act("y")


async def a_receive() -> None:
    await news.receive()


async def a_sleep() -> None:
    await asyncio.sleep(1)
    await act("x")


async def a_marker() -> None:
    side_effect(lambda: 1)
    await act("x")


async def a_send() -> None:
    await news.send(1, to="other")
    await act("x")


def test_renamed_activity_is_named_with_its_place() -> None:
    z = activity_of("z")

    async def renamed() -> None:
        await act("x")
        await z()

    error = replay(renamed, recorded(two_activities))
    assert error.activity_id == "2"
    assert error.recorded == "activity 'y'"
    assert error.requested == "activity 'z'"
    line = renamed.__code__.co_firstlineno + 2
    assert error.location == f"{Path(__file__)}:{line}"
    assert f"2: history records activity 'y', but the code at {error.location} asks for activity 'z'" in str(error)
    assert "new version" in str(error)


def test_renamed_activity_in_a_gather_is_placed_where_it_is_called() -> None:
    async def gathered() -> None:
        await asyncio.gather(act("x"), act("y"))

    z = activity_of("z")

    async def renamed() -> None:
        await asyncio.gather(
            act("x"),
            z(),
        )

    error = replay(renamed, recorded(gathered))
    assert error.location == f"{Path(__file__)}:{renamed.__code__.co_firstlineno + 3}"


@pytest.mark.parametrize("kind", ["Exception", "BaseException", "finally", "gather"])
def test_nondeterminism_is_not_swallowed(kind: str) -> None:
    async def renamed() -> None:
        await act("x")
        if kind == "Exception":
            try:
                await act("z")
            except Exception:
                return
        elif kind == "BaseException":
            try:
                await act("z")
            except BaseException:
                return
        elif kind == "finally":
            try:
                await act("z")
            finally:
                await act("cleanup")
        else:
            await asyncio.gather(act("z"), return_exceptions=True)

    assert replay(renamed, recorded(two_activities)).requested == "activity 'z'"


@pytest.mark.parametrize(
    ("before", "recorded_kind"),
    [(a_receive, "receive 'news'"), (a_marker, "side_effect 'side_effect'"), (a_send, "send 'news'")],
)
def test_another_kind_in_the_place(before: Callable[..., Any], recorded_kind: str) -> None:
    async def changed() -> None:
        await act("other")

    error = replay(changed, recorded(before, messages=[Message(1, "m")]))
    assert error.recorded == recorded_kind
    assert error.requested == "activity 'other'"


def test_same_name_but_another_kind() -> None:
    async def sends() -> None:
        await news.send(1, to="other")

    error = replay(sends, recorded(a_receive, messages=[Message(1, "m")]))
    assert (error.recorded, error.requested) == ("receive 'news'", "send 'news'")


async def _receives_instead() -> None:
    await act("x")
    await news.receive()


async def _stops_early() -> None:
    await act("x")


async def _sleeps_first() -> None:
    await act("x")
    await asyncio.sleep(1)
    await act("y")


async def _waits_for_ever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("changed", [_receives_instead, _stops_early, _sleeps_first, _waits_for_ever])
def test_recorded_result_that_is_not_asked_for(changed: Callable[..., Any]) -> None:
    error = replay(changed, recorded(two_activities))
    assert "no longer gets there" in str(error) or "asks for" in str(error)
    assert error.activity_id in {"2", "2:y", "1:x"}


def test_removed_timer() -> None:
    async def changed() -> None:
        await act("x")

    error = replay(changed, recorded(a_sleep))
    assert error.activity_id == "@1"
    assert "no longer gets there" in str(error)


def test_removed_marker() -> None:
    async def changed() -> None:
        await act("x")

    assert "side_effect" in str(replay(changed, recorded(a_marker)))


def test_marker_that_is_no_longer_reached() -> None:
    async def changed() -> None:
        await asyncio.sleep(1)
        side_effect(lambda: 1)

    error = replay(changed, recorded(a_marker)[:1])
    assert error.activity_id == "1:side_effect"
    assert "no longer gets there" in str(error)


def test_added_marker() -> None:
    async def changed() -> None:
        await act("x")
        side_effect(lambda: 1)
        await act("y")

    error = replay(changed, recorded(two_activities)[:1])
    assert "history does not record it" in str(error)
    assert Path(__file__).name in error.location


def test_added_send() -> None:
    async def changed() -> None:
        await act("x")
        await news.send(1, to="other")
        await act("y")

    error = replay(changed, recorded(two_activities)[:1])
    assert error.activity_id == "2:news"
    assert "history does not record it" in str(error)


def test_added_activity_behind_what_is_recorded_is_no_difference() -> None:
    async def changed() -> str:
        await act("x")
        await act("new")
        return "done"

    events = recorded(two_activities)[:1]
    execution = begin(changed)
    assert execution.replay(events, drained_seq=len(events), started_at=T0) is None
    assert [command.activity_id for command in execution.outstanding()] == ["2:new"]
    execution.suspend()


def test_cancel_behind_the_end_of_changed_code() -> None:
    async def waits() -> None:
        await act("x")
        await act("long")

    async def changed() -> None:
        await act("x")

    shell = Shell(waits, cancel_at=1.5).run()
    error = replay(changed, [event for event in shell.events if event.kind < EventKind.RUN_COMPLETED])
    assert error.activity_id == "cancel"


def test_changed_code_that_fails_before_the_end_of_history_raises_its_error() -> None:
    async def changed() -> None:
        await act("x")
        raise TypeError("a bad deploy")

    events = recorded(two_activities)
    execution = begin(changed)
    with pytest.raises(TypeError, match="a bad deploy"):
        execution.replay(events, drained_seq=len(events), started_at=T0)
    execution.suspend()


def test_unknown_event_is_from_a_newer_romancy() -> None:
    execution = begin(two_activities)
    with pytest.raises(NondeterminismError, match="newer romancy"):
        execution.replay([Event(0, 2, T0, 99, "1:x", None)], drained_seq=1, started_at=T0)


def test_reserved_events_are_ignored() -> None:
    events = recorded(two_activities)
    padded = [Event(0, 1, T0, EventKind.ACTIVITY_SCHEDULED, "1:x", None)]
    padded += [event._replace(seq=event.seq + 1) for event in events]
    execution = begin(two_activities)
    assert execution.replay(padded, drained_seq=len(padded), started_at=T0) is None
    assert execution.closing is not None


def test_live_turn_after_replay_is_not_checked_against_history() -> None:
    execution = begin(two_activities)
    first = execution.activate(stamp=T0)
    second = execution.activate([completed("1:x")], stamp=T0)
    again = begin(two_activities)
    events = events_of(first, second)
    again.replay(events, drained_seq=len(events), started_at=T0)
    assert not again.is_replaying
    assert again.activate([completed("2:y")], stamp=T0).closing is not None
    execution.suspend()
