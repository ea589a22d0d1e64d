"""``romancy replay``: the code of a checkout against the histories of a service."""

from __future__ import annotations

from pathlib import Path

import pytest

from romancy import App, Channel, activity, workflow

from .shell import ROOT, parked, romancy

pytestmark = pytest.mark.anyio

answers: Channel[str] = Channel("replayed.answers", str)

SHOP = """
from romancy import Channel, activity, workflow
answers = Channel("replayed.answers", str)
@activity(name="replayed_act")
async def act(text: str) -> str:
    raise AssertionError("nothing is run")
@activity(name="replayed_other")
async def other(text: str) -> str:
    raise AssertionError("nothing is run")
@workflow(name="replayed_flow")
async def flow(text: str) -> str:
    return await {first}(text) + await answers.receive()
"""


@activity(name="replayed_act")
async def act(text: str) -> str:
    return text


@workflow(name="replayed_flow")
async def flow(text: str) -> str:
    return await act(text) + await answers.receive()


async def test_code_is_held_against_what_is_in_the_database(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, first in (("good_shop", "act"), ("bad_shop", "other")):
        (tmp_path / f"{name}.py").write_text(SHOP.format(first=first))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    async with App(url, workflows=[flow]) as app:
        for number in range(3):
            await app.start(flow("x"), id=f"n{number}")
        await app.start(flow("x"), id="later", delay=3600)
        await app.send(answers, "y", to="n0")
        await (await app.get("n0")).result()
        for number in (1, 2):
            await parked(app, f"n{number}")
        good = await romancy("replay", "good_shop", url=url)
        assert (good.status, good.out, good.err) == (0, "3 replayed, 0 do not fit\n", "")
        bad = await romancy("replay", "bad_shop", "--json", url=url)
        assert (bad.status, bad.json["replayed"]) == (1, 3)
        assert [each["id"] for each in bad.json["unfit"]] == ["n0", "n1", "n2"]
        assert "asks for activity 'replayed_other'" in bad.json["unfit"][0]["why"]
        none = await romancy("replay", "json", url=url)
        assert (none.status, "no module that was given defines it" in none.out) == (1, True)
        only = await romancy("replay", "good_shop", "--workflow", "another", url=url)
        assert (only.status, only.out) == (0, "0 replayed, 0 do not fit\n")
        for arguments in ((), ("no_such_module",), ("good_shop", "--since", "soon")):
            done = await romancy("replay", *arguments, url=url)
            assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
        assert [info.status for info in await app.list()] == ["completed", "running", "running", "pending"]
