"""Two processes whose commits touch each other's instances in opposite orders.

``ROMANCY_CROSSING_ROUNDS`` makes it longer: 1500 take about a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import BackEnd, back_end
from tests.postgres import Server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
__all__ = ["back_end"]

ROUNDS = int(os.environ.get("ROMANCY_CROSSING_ROUNDS", "40"))
ROOT = str(Path(__file__).parents[2])


async def play(url: str, ids: list[str], peers: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.chaos.crossing",
        url,
        json.dumps(ids),
        json.dumps(peers),
        str(ROUNDS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=ROOT,
    )


async def deadlocks(server: Server) -> int:
    (row,) = await server.execute("SELECT sum(deadlocks)::bigint FROM pg_stat_database")
    return int(row[0])


async def test_batches_that_cross_are_no_deadlock(back_end: BackEnd, request: pytest.FixtureRequest) -> None:
    url = back_end.lasting_url()
    server: Server | None = request.getfixturevalue("postgres") if back_end.name == "postgres" else None
    before = 0 if server is None else await deadlocks(server)
    ones, others = [f"a{n}" for n in range(8)], [f"b{n}" for n in range(8)]
    processes = [await play(url, ones, others), await play(url, others[::-1], ones[::-1])]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stderr is not None
            line = await process.stdout.readline()
            assert line == b"ready\n", (await process.stderr.read()).decode()
        ended = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert [errors.decode() for _, errors in ended] == ["", ""]
    assert [json.loads(printed) for printed, _ in ended] == [[8 * ROUNDS] * 8] * 2
    if server is not None:
        await asyncio.sleep(1.1)  # a backend tells its numbers that often
        assert await deadlocks(server) == before
