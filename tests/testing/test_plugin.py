"""The fixtures for pytest, with pytest-asyncio in both modes and with anyio's plugin, as another project uses them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.scripts import ROOT

_SHOP = """
from datetime import timedelta
from romancy import activity, sleep, workflow

@activity
async def charge(order: str) -> str:
    raise AssertionError("not in a test")

@workflow
async def subscribe(order: str, months: int) -> int:
    for month in range(months):
        await charge(order)
        await sleep(timedelta(days=30))
    return months
"""
_TESTS = """
from datetime import timedelta
import pytest
from shop import charge, subscribe
{marks}
async def test_a_year_passes(romancy_env):
    stub = romancy_env.stub(charge, returns="paid")
    assert await romancy_env.app.run(subscribe("tea", 12)) == 12
    assert len(stub.calls) == 12
    assert romancy_env.now - romancy_env.started == timedelta(days=360)

@pytest.mark.romancy(replay_always=True, workflows=[subscribe])
async def test_the_app_alone(romancy_app, romancy_env):
    romancy_env.stub(charge, returns="paid")
    assert romancy_app is romancy_env.app
    assert await romancy_app.run(subscribe("tea", 1)) == 1

def test_without():
    pass
"""


@pytest.mark.parametrize(
    ("marks", "options"),
    [
        ("pytestmark = pytest.mark.asyncio", ["--asyncio-mode=strict"]),
        ("", ["--asyncio-mode=auto"]),
    ],
    ids=["strict", "auto"],
)
def test_fixtures_are_there(tmp_path: Path, marks: str, options: list[str]) -> None:
    (tmp_path / "shop.py").write_text(_SHOP)
    (tmp_path / "test_shop.py").write_text(
        _TESTS.format(marks=marks).replace("def test_without", "async def test_without")
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:romancy", "-m", "pytest", "-q", "--strict-markers", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
