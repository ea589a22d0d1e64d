"""Acting on many instances by a filter, on one again, and watching one: as processes, while a worker runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from romancy import App, Channel, NonRetryableError, WorkflowFailedError, activity, set_custom_status, workflow

from .shell import environment_of, parked, romancy

pytestmark = pytest.mark.anyio

words: Channel[str] = Channel("many.words", str)
broken: set[str] = set()
calls: list[str] = []


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    broken.clear()
    calls.clear()


@activity(name="many_act")
async def act(text: str) -> str:
    calls.append(text)
    if text in broken:
        raise NonRetryableError(f"{text} is broken")
    return text


@workflow(name="many_waits")
async def waits() -> str:
    set_custom_status("waiting")
    return await words.receive()


@workflow(name="many_acts")
async def acts() -> list[str]:
    return [await act("a"), await act("b"), await act("c")]


@workflow(name="many_blocks")
async def blocks() -> str:
    if broken:
        raise TypeError("a bug")
    return "done"


async def test_all_that_fit_are_paused_unpaused_cancelled_and_purged_under_load(url: str) -> None:
    async with App(url, workflows=[waits, acts]) as app:
        for number in range(30):
            await app.start(waits(), id=f"w{number}", tags={"half": str(number % 2)})
        busy = asyncio.create_task(keep_busy(app))
        refused = await romancy("cancel", "--tag", "half:1", url=url)
        assert (refused.status, "15 instances?" in refused.err) == (1, True)
        assert (await romancy("pause", "--tag", "half:0", "--yes", url=url)).out == "pause: 15 done\n"
        assert [info.status for info in await app.list(tags={"half": "0"})] == ["paused"] * 15
        assert (await romancy("unpause", "--tag", "half:0", "--yes", url=url)).out == "unpause: 15 done\n"
        done = await romancy("cancel", "--tag", "half:1", "--yes", "--json", url=url)
        assert (done.json["done"], done.json["refused"], done.json["refusals"]) == (15, 0, [])
        while {info.status for info in await app.list(tags={"half": "1"})} != {"cancelled"}:
            await asyncio.sleep(0.01)
        again = await romancy("cancel", "--tag", "half:1", "--yes", url=url)
        assert (again.status, again.out) == (0, "cancel: 0 done\n")
        ended = await romancy("terminate", "--id-prefix", "w", "--yes", url=url)
        assert (ended.status, ended.out) == (0, "terminate: 15 done\n")
        assert (await romancy("purge", "--workflow", "many_waits", "--yes", url=url)).out == "purge: 30 done\n"
        assert await app.list(workflow="many_waits") == []
        busy.cancel()


async def keep_busy(app: App) -> None:
    while True:
        await app.run(acts())


async def test_ten_thousand_are_cancelled_with_an_interruption_in_between(url: str) -> None:
    count = 10_000
    async with App(url, workflows=[acts], hot_limit=100) as app:
        await asyncio.gather(*(app.start(waits(), delay=3600, tags={"batch": "7"}) for _ in range(count)))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "romancy", "cancel", "--tag", "batch:7", "--yes"),
            env=environment_of(url, FORCE_COLOR="1", TTY_COMPATIBLE="1", TTY_INTERACTIVE="1"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        while await asked(app) < 1_000:
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        shown = err.decode()
        assert f"/{count}" in shown
        told = shown[shown.index("romancy: interrupted after") :]
        done, cursor = int(told.split()[3]), told.split()[-1]
        assert 0 < done < count
        assert done <= await asked(app) <= done + 200
        rest = await romancy("cancel", "--tag", "batch:7", "--after", cursor, "--yes", "--json", url=url)
        assert rest.json["done"] == count - done
        assert await asked(app) == count


async def asked(app: App) -> int:
    """Count those that a cancel has reached."""
    found = 0
    cursor = None
    while page := await app.list(tags={"batch": "7"}, after=cursor, limit=1_000):
        found += sum(info.unread > 0 for info in page)
        cursor = page[-1].cursor
    return found


async def test_failed_and_blocked_are_retried_and_rerun(url: str) -> None:
    broken.add("b")
    async with App(url, workflows=[acts, blocks]) as app:
        failed = await app.start(acts(), id="failed")
        blocked = await app.start(blocks(), id="blocked")
        with pytest.raises(WorkflowFailedError):
            await failed.result()
        while await blocked.status() != "blocked":
            await asyncio.sleep(0.01)
        assert (await romancy("retry", "failed", url=url)).status == 0
        while calls.count("b") < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(WorkflowFailedError):
            await failed.result()
        broken.clear()
        done = await romancy("retry", "--all", "--yes", url=url)
        assert (done.status, done.out) == (0, "retry: 2 done\n")
        assert await failed.result() == ["a", "b", "c"]
        assert await blocked.result(wait_blocked=True) == "done"
        assert calls == ["a", "b", "b", "b", "c"]
        refused = await romancy("retry", "failed", url=url)
        assert (refused.status, len(refused.err.splitlines())) == (2, 1)
        rerun = await romancy("rerun", "failed", "--from", "2:many_act", "--input", '{"text": "x"}', "--json", url=url)
        assert await (await app.get(rerun.json["id"])).result() == ["a", "x", "c"]
        whole = await romancy("rerun", "failed", "--new-id", "whole", "--tag", "a:b", url=url)
        assert whole.out == "whole\n"
        assert await (await app.get("whole")).result() == ["a", "b", "c"]
        for arguments in (
            ("--from", "7:nothing"),
            ("--from", "2:many_act", "--input", "[1]"),
            ("--from", "2:many_act", "--input", "{"),
            ("--new-id", "whole"),
            ("--tag", "x"),
        ):
            refused = await romancy("rerun", "failed", *arguments, url=url)
            assert (refused.status, refused.out, len(refused.err.splitlines())) == (2, "", 1), refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("cancel",),
        ("cancel", "one", "--all"),
        ("cancel", "--status", "completed", "--yes"),
        ("purge", "--status", "running", "--yes"),
        ("retry", "--status", "lost", "--yes"),
        ("pause", "--after", "x", "--yes"),
        ("terminate", "--tag", "x", "--yes"),
        ("show", "nobody"),
        ("watch", "nobody"),
        ("retry", "nobody"),
        ("rerun", "nobody"),
        ("show", "one", "--run", "7"),
    ],
)
async def test_what_can_t_be_used_is_one_line_and_exit_2(url: str, arguments: tuple[str, ...]) -> None:
    async with App(url, workflows=[waits]) as app:
        await app.start(waits(), id="one")
        done = await romancy(*arguments, url=url)
        assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1), done.err
        assert [info.status for info in await app.list()] == ["running"]


async def test_watch_prints_what_changes_until_the_end(url: str) -> None:
    async with App(url, workflows=[waits]) as app:
        await app.start(waits(), id="one")
        await parked(app, "one")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "romancy", "watch", "one", "--json"),
            env=environment_of(url),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        first = json.loads(await process.stdout.readline())
        assert (first["status"], first["custom_status"]) == ("running", "waiting")
        await app.pause("one")
        assert json.loads(await process.stdout.readline())["status"] == "paused"
        await app.unpause("one")
        assert json.loads(await process.stdout.readline())["status"] == "running"
        await app.send(words, "word", to="one")
        assert json.loads(await process.stdout.readline())["status"] == "completed"
        assert await process.wait() == 0
        assert [info.status async for info in (await app.get("one")).watch()] == ["completed"]
        assert "completed" in (await romancy("watch", "one", url=url)).out


async def test_migrate_makes_the_schema_or_says_that_there_is_none(url: str) -> None:
    missing = await romancy("migrate", "--check", url=url)
    assert (missing.status, missing.out, len(missing.err.splitlines())) == (2, "", 1)
    assert (await romancy("list", url=url)).status == 2
    assert (await romancy("migrate", url=url)).out == "the schema is up to date\n"
    assert (await romancy("migrate", "--check", "--json", url=url)).json == {"is_up_to_date": True}
    assert (await romancy("list", "--json", url=url)).json == {"instances": [], "next": None}
    assert (await romancy("migrate", url="mysql://x")).status == 2


@pytest.mark.skipif(os.name == "nt", reason="the shells that it is for are those of POSIX")
async def test_completion_is_installed_for_the_shell(tmp_path: Path) -> None:
    done = await romancy("--install-completion", "--shell", "bash", "--output", f"{tmp_path}/romancy.bash", url=None)
    assert done.status == 0, done.err
    assert "terminate" in (tmp_path / "romancy.bash").read_text()
