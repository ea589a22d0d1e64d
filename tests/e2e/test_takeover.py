"""A process that is killed does not have to be waited for on its own machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from .processes import running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells when a process began"),
]


async def test_killed_process_is_replaced_long_before_its_session_expires(tmp_path: Path) -> None:
    database = tmp_path / "steps.db"
    async with running("patient.py", database, "wait") as first:
        await first.expect("begun 2")
        first.kill()
        await first.end()
    async with running("patient.py", database) as second:
        assert await second.lines() == ["begun 2", "begun 3", "result 6"]
        assert await second.end() == 0


async def test_killed_process_is_replaced_by_one_that_runs_already(tmp_path: Path) -> None:
    database = tmp_path / "steps.db"
    async with running("patient.py", database, "wait") as first:
        await first.expect("begun 2")
        async with running("patient.py", database) as second:
            first.kill()
            assert await second.lines() == ["begun 2", "begun 3", "result 6"]
            assert await second.end() == 0
