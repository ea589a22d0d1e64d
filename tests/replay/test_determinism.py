"""Chance, names and readings of the world are the same at every replay."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest

from romancy import CodecError, now, side_effect, uuid4, workflow_info
from romancy import random as draw
from romancy.replay.execution import Execution

from .harness import Shell, check, check_replay
from .scripting import CODEC, T0, act, begin, completed, define, log


async def chances() -> list[Any]:
    async def child() -> Any:
        return str(uuid4()), draw()

    own = [str(uuid4()), str(uuid4()), draw()]
    await act("a")
    return [*own, *await asyncio.gather(child(), child()), str(uuid4())]


def chances_of(**settings: Any) -> Any:
    execution = Execution(define(chances), b"{}", codec=CODEC, **settings)
    execution.activate(stamp=T0)
    turn = execution.activate([completed("1:a")], stamp=T0)
    assert turn.closing is not None
    return turn.closing.note.payload


def test_chance_is_the_same_at_every_replay() -> None:
    shell = check(chances)
    flat = [shell.result[0], shell.result[1], shell.result[2], *shell.result[3], *shell.result[4], shell.result[5]]
    assert len({str(item) for item in flat}) == len(flat)


def test_chance_writes_nothing() -> None:
    assert [event.activity_id for event in check(chances).events] == ["1:a", None]


def test_chance_differs_for_every_start_and_run() -> None:
    made = {chances_of(execution_id=1), chances_of(execution_id=2), chances_of(execution_id=1, run=1)}
    assert len(made) == 3
    assert chances_of(execution_id=1) in made


def test_uuid4_is_a_version_4_uuid_and_random_is_below_1() -> None:
    async def flow() -> list[Any]:
        drawn = [draw() for _ in range(200)]
        return [uuid4().version, min(drawn) >= 0, max(drawn) < 1, len(set(drawn)), sum(drawn) / 200]

    version, is_positive, is_small, count, mean = check(flow).result
    assert (version, is_positive, is_small, count) == (4, True, True, 200)
    assert 0.4 < mean < 0.6


def test_now_is_the_stamp_of_the_turn() -> None:
    async def flow() -> list[str]:
        times = [now(), now()]
        await act("a")
        return [time.isoformat() for time in [*times, now()]]

    assert check(flow).result == [
        "2023-11-14T22:13:20+00:00",
        "2023-11-14T22:13:20+00:00",
        "2023-11-14T22:13:21+00:00",
    ]


def test_side_effect_is_called_once() -> None:
    calls: list[int] = []

    def reading() -> float:
        calls.append(1)
        return random.random()

    async def flow() -> list[float]:
        first = side_effect(reading)
        log(first)
        await act("a")
        second = side_effect(reading)
        log(second)
        await act("b")
        return [first, second]

    live = Shell(flow, evict=1.0).run()
    assert len(calls) == 2
    check_replay(live)
    assert len(calls) == 2
    assert [event.activity_id for event in live.events][:2] == ["1:side_effect", "2:a"]


def test_side_effect_comes_back_as_it_is_annotated() -> None:
    def reading() -> tuple[int, ...]:
        return (1, 2)

    async def flow() -> list[str]:
        await act("a")
        return [repr(side_effect(reading)), repr(side_effect(lambda: (1, 2)))]

    assert check(flow).result == ["(1, 2)", "[1, 2]"]


def test_side_effect_that_does_not_fit_its_annotation_is_refused() -> None:
    def reading() -> int:
        return cast("int", "text")  # what is refused

    async def flow() -> str:
        with pytest.raises(CodecError, match="side_effect"):
            side_effect(reading)
        return "refused"

    assert Shell(flow).run().result == "refused"


def test_workflow_info_tells_of_the_run() -> None:
    seen: list[bool] = []

    async def flow() -> list[Any]:
        seen.append(workflow_info().is_replaying)
        await act("a")
        seen.append(workflow_info().is_replaying)
        await act("b")
        info = workflow_info()
        return [info.instance_id, info.version, info.run]

    shell = Shell(flow).run()
    assert shell.result == ["i", "1", 0]
    assert seen == [False, False]
    execution = begin(flow)
    execution.replay(shell.events[:1], drained_seq=1, started_at=T0)
    assert seen[2:] == [True, True]
    execution.suspend()
