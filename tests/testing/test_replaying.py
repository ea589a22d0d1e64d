"""Saved histories are replayed by code that fits them, and refused by code that does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from romancy import Channel, CodecError, NondeterminismError, SavedHistory, activity, patched, recur, sleep, workflow
from romancy.core.definitions import Workflow
from romancy.testing import TestEnvironment, replay, saved_cases

pytestmark = pytest.mark.anyio

answers: Channel[str] = Channel("replaying.answers", str)


@activity(name="replaying_a")
async def act_a(text: str) -> str:
    return text


@activity(name="replaying_b")
async def act_b(text: str) -> str:
    return text


@act_a.compensation(name="replaying_undo")
async def undo(result: str | None, text: str) -> None:
    pass


@workflow(name="replaying_flow")
async def flow(text: str) -> list[str]:
    first = await act_a(text)
    both = await asyncio.gather(act_b("x"), act_a("y"))
    await sleep(3600)
    return [first, *both, await answers.receive()]


def changed(fn: Any) -> Workflow[..., Any]:
    """Return what flow would be if its code were another."""
    return Workflow(fn, "replaying_flow", flow.version, type(flow.signature)(fn))


@pytest.fixture
async def env(anyio_backend: str) -> AsyncIterator[TestEnvironment]:
    async with TestEnvironment() as made:
        yield made


async def saved(env: TestEnvironment, *, ended: bool = True) -> SavedHistory:
    handle = await env.app.start(flow("tea"), id="one")
    if ended:
        await handle.send(answers, "ann")
        await handle.result()
    else:
        await env.advance(60)
    return await handle.saved_history()


async def test_code_that_fits_is_let_pass(env: TestEnvironment, tmp_path: Path) -> None:
    case = await saved(env)
    replay(flow, case)
    data = msgspec.json.encode(case)
    replay(flow, msgspec.json.decode(data))
    (tmp_path / "below").mkdir()
    for name in ("b.json", "below/a.json"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "readme.txt").write_text("no case")
    assert [path.name for path in saved_cases(tmp_path)] == ["b.json", "a.json"]
    for path in saved_cases(tmp_path):
        replay(flow, path)
        replay(flow, str(path))


async def test_partial_history_is_replayed_as_far_as_it_goes(env: TestEnvironment) -> None:
    case = await saved(env, ended=False)
    assert [event.kind for event in case.events] == ["activity_completed"] * 3

    async def longer(text: str) -> list[str]:
        await act_a(text)
        await asyncio.gather(act_b("x"), act_a("y"))
        return [await act_b("something new")]

    replay(flow, case)
    replay(changed(longer), case)


async def other(text: str) -> list[str]:
    return [await act_b(text)]


async def shorter(text: str) -> list[str]:
    return [await act_a(text)]


async def more(text: str) -> list[str]:
    result = await flow.fn(text)
    return [*result, await act_b("at the end")]


async def swapped(text: str) -> list[str]:
    first = await act_a(text)
    both = await asyncio.gather(act_a("y"), act_b("x"))
    await sleep(3600)
    return [first, *both, await answers.receive()]


async def without_sleep(text: str) -> list[str]:
    first = await act_a(text)
    both = await asyncio.gather(act_b("x"), act_a("y"))
    return [first, *both, await answers.receive()]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (other, "history records activity 'replaying_a', but the code at .* asks for activity 'replaying_b'"),
        (shorter, "history records it, but the code no longer gets there"),
        (more, "records the run's end, but the code goes on: it asks for 5:replaying_b"),
        (swapped, "history records activity 'replaying_b', but the code"),
        (without_sleep, "history records it, but the code no longer gets there"),
    ],
)
async def test_code_that_does_not_fit_is_refused(env: TestEnvironment, code: Any, told: str) -> None:
    case = await saved(env)
    with pytest.raises(NondeterminismError, match=told):
        replay(changed(code), case)


async def test_code_that_ends_where_the_run_went_on_is_refused(env: TestEnvironment) -> None:
    case = await saved(env, ended=False)

    async def ends(text: str) -> list[str]:
        await act_a(text)
        return list(await asyncio.gather(act_b("x"), act_a("y")))

    with pytest.raises(NondeterminismError, match="records that the run goes on, but the code has come to its end"):
        replay(changed(ends), case)


async def test_change_behind_a_patch_fits(env: TestEnvironment) -> None:
    case = await saved(env)

    async def mended(text: str) -> list[str]:
        if patched("mended"):
            await act_b("new")
        return await flow.fn(text)

    replay(changed(mended), case)


async def test_input_that_does_not_fit_any_more_is_refused(env: TestEnvironment) -> None:
    case = await saved(env)

    async def renamed(drink: str) -> list[str]:
        return await flow.fn(drink)

    with pytest.raises(CodecError, match="unknown field `text`"):
        replay(changed(renamed), case)


def plain(case: SavedHistory) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(case))
    return found


@workflow(name="replaying_fails")
async def fails() -> None:
    await act_a("x")
    raise ValueError("it fails")


@workflow(name="replaying_recurs")
async def recurs(left: int) -> str:
    await act_b(str(left))
    return recur(recurs(left - 1)) if left else "done"


async def test_failed_undone_rerun_and_recurring_runs_are_replayed(env: TestEnvironment) -> None:
    handle = await env.app.start(fails(), id="failed")
    with pytest.raises(Exception, match="it fails"):
        await handle.result()
    replay(fails, await handle.saved_history())
    again = await handle.rerun(from_activity="1:replaying_a")
    with pytest.raises(Exception, match="it fails"):
        await again.result()
    replay(fails, await again.saved_history())
    last = await env.app.start(recurs(2), id="recurs")
    await last.result()
    replay(recurs, await last.saved_history())
    with pytest.raises(ValueError, match="recur has closed the run"):
        replay(recurs, await last.saved_history(run=0))


async def test_what_is_no_case_is_refused(env: TestEnvironment, tmp_path: Path) -> None:
    case = await saved(env)
    with pytest.raises(ValueError, match="is of workflow 'replaying_flow', not of 'replaying_fails'"):
        replay(fails, case)
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match=r"x\.json is no saved history"):
        replay(flow, tmp_path / "x.json")
    with pytest.raises(ValueError, match="has form 2"):
        replay(flow, {**plain(case), "format": 2})
    later = plain(case)
    later["events"][0]["kind"] = "hiccup"
    with pytest.raises(ValueError, match="does not know: hiccup"):
        replay(flow, later)
