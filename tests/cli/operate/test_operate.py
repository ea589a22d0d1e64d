"""The commands that operate a running service, on both back ends, as processes of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from romancy import App, Channel, activity, workflow
from romancy.cli.commands import COMMANDS

from .shell import ROOT, parked, romancy

pytestmark = pytest.mark.anyio

words: Channel[str] = Channel("operate.words", str)


@activity(name="operate_act")
async def act(text: str) -> str:
    return text


@workflow(name="operate_waits")
async def waits(text: str = "text") -> str:
    first = await act(text)
    return first + await words.receive()


async def test_instances_are_listed_and_read_while_a_worker_runs(url: str) -> None:
    async with App(url, workflows=[waits]) as app:
        for number in range(3):
            await app.start(waits(), id=f"n{number}", tags={"parity": str(number % 2)})
            await parked(app, f"n{number}")
        table = await romancy("list", url=url)
        assert (table.status, table.err) == (0, "")
        assert [line.split()[:3] for line in table.out.splitlines()[1:]] == [
            [f"n{number}", "operate_waits", "running"] for number in range(3)
        ]
        assert "operate.words" in table.out
        page = (await romancy("list", "--limit", "2", "--json", url=url)).json
        assert ([each["id"] for each in page["instances"]], page["next"] is None) == (["n0", "n1"], False)
        rest = (await romancy("list", "--limit", "2", "--after", page["next"], "--json", url=url)).json
        assert ([each["id"] for each in rest["instances"]], rest["next"]) == (["n2"], None)
        odd = (await romancy("list", "--tag", "parity:1", "--status", "running", "--json", url=url)).json
        assert [each["id"] for each in odd["instances"]] == ["n1"]
        saved = (await romancy("history", "n0", "--json", url=url)).json
        assert [(event["kind"], event["payload"]) for event in saved["events"]] == [("activity_completed", "text")]
        told = (saved["format"], saved["workflow"], saved["input"], saved["drained"])
        assert told == (1, "operate_waits", {"text": "text"}, 1)
        assert "operate_act" in (await romancy("history", "n0", url=url)).out


async def test_instance_is_messaged_paused_cancelled_terminated_and_purged(url: str) -> None:
    async with App(url, workflows=[waits]) as app:
        handles = {id: await app.start(waits(), id=id) for id in ("one", "two", "three")}
        for id in handles:
            await parked(app, id)
        assert (await romancy("send", "one", "operate.words", '" and more"', "--message-id", "m", url=url)).status == 0
        assert await handles["one"].result(timeout=10) == "text and more"
        assert (await romancy("pause", "two", url=url)).status == 0
        assert await handles["two"].status() == "paused"
        assert (await romancy("unpause", "two", url=url)).status == 0
        assert (await romancy("cancel", "two", "--reason", "enough", url=url)).status == 0
        while await handles["two"].status() != "cancelled":
            await asyncio.sleep(0.01)
        refused = await romancy("terminate", "three", url=url)
        assert (refused.status, "pass --yes" in refused.err) == (1, True)
        assert await handles["three"].status() == "running"
        assert (await romancy("terminate", "three", "--yes", url=url)).status == 0
        assert await handles["three"].status() == "terminated"
        assert (await romancy("purge", "three", url=url)).status == 1
        assert (await romancy("purge", "three", "-y", url=url)).status == 0
        assert [info.id for info in await app.list()] == ["one", "two"]


async def test_what_can_t_be_used_is_one_line_and_exit_2(url: str) -> None:
    async with App(url, workflows=[waits]) as app:
        await app.start(waits(), id="one")
        for arguments in (
            ("history", "nobody"),
            ("cancel", "nobody"),
            ("terminate", "nobody", "--yes"),
            ("purge", "nobody", "--yes"),
            ("purge", "one", "--yes"),
            ("send", "nobody", "operate.words", '"a"'),
            ("send", "one", "operate.words", "no json"),
            ("send", "one", "a channel", '"a"'),
            ("history", "one", "--run", "7"),
            ("list", "--status", "lost"),
            ("list", "--after", "x"),
            ("list", "--tag", "x"),
            ("list", "--limit", "0"),
        ):
            done = await romancy(*arguments, url=url)
            assert (done.status, done.out) == (2, ""), arguments
            assert len(done.err.splitlines()) == 1, (arguments, done.err)


SERVICE = """
import os
from romancy import App, activity, workflow

@activity
async def act():
    return os.getpid()

@workflow(name="operate_service")
async def service():
    return await act()

workflows = App(os.environ["ROMANCY_URL"])
number = 7
"""


async def test_worker_executes_an_app_until_it_is_told_to_stop(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)

    @workflow(name="operate_service")
    async def service() -> int:
        raise AssertionError("it runs in the other process")

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ROMANCY_URL": url}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "romancy", "worker", "shop:workflows"),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        while b"working on" not in (line := await process.stderr.readline()):
            assert line, "it has ended"
        async with App(url, worker=False) as client:
            assert await client.run(service(), timeout=10) == process.pid
        process.terminate()
        assert await process.wait() == 0
        async with App(url, worker=False) as client:
            assert [info.is_owned for info in await client.list()] == [False]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("place", ["shop", "shop:", ":x", "no_such_module:app", "shop:nothing", "shop:number"])
async def test_worker_without_an_app_is_one_line_and_exit_2(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)
    done = await romancy("worker", place, url="sqlite://")
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1), done.err


@pytest.mark.parametrize("bad", ["mysql://x", "sqlite:////nowhere/at/all.db", "postgresql://127.0.0.1:1/x"])
async def test_bad_url_is_one_line_and_makes_nothing(bad: str, tmp_path: Path) -> None:
    for each in (bad, f"sqlite:///{tmp_path / 'none.db'}"):
        done = await romancy("list", url=each)
        assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("list",), ("nonsense",), ("show",), ("list", "--limit", "x"), ("list", "--no")])
async def test_what_can_t_be_understood_is_one_line_and_exit_2(arguments: tuple[str, ...]) -> None:
    done = await romancy(*arguments, url=None)
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1), done.err


@pytest.mark.parametrize(
    "command",
    sorted(COMMANDS),
)
async def test_help_tells_of_every_parameter(command: str) -> None:
    listing = await romancy("--help", url=None)
    (line,) = (line for line in listing.out.splitlines() if f"│ {command} " in line)
    assert len(line.strip("│ ").split()) > 3
    done = await romancy(command, "--help", url=None)
    assert done.status == 0
    for row in done.out.splitlines():
        if row.startswith("│ ") and row.strip("│ ").startswith(("-", "ID", "URL", "CHANNEL", "MESSAGE")):
            assert len(row.strip("│ *").split()) > 2, row
