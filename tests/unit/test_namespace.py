from __future__ import annotations

import subprocess
import sys

import pytest

import romancy

# Drivers of databases that were not asked for, web frameworks, and what the command line prints with.
HEAVY = ("asyncpg", "fastapi", "starlette", "aiohttp", "uvicorn", "rich", "cyclopts", "pydantic", "attrs", "pytest")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_is_sorted_and_has_no_name_twice() -> None:
    assert list(romancy.__all__) == sorted(set(romancy.__all__))


@pytest.mark.parametrize("name", romancy.__all__)
def test_every_public_name_exists_and_has_a_docstring(name: str) -> None:
    value = getattr(romancy, name)
    assert (value.__doc__ or "").strip(), f"romancy.{name} has no docstring"


def test_all_holds_every_public_name_of_the_package() -> None:
    public = run(
        "import romancy, types\n"
        "for name, value in vars(romancy).items():\n"
        "    if name[0] != '_' and name != 'annotations' and not isinstance(value, types.ModuleType): print(name)"
    )
    assert sorted(public.split()) == list(romancy.__all__)


def test_import_star_brings_the_public_names() -> None:
    names = run("before = set(dir())\nfrom romancy import *\nprint(*sorted(set(dir()) - before - {'before'}))")
    assert names.split() == list(romancy.__all__)


def test_importing_romancy_imports_no_driver_and_no_framework() -> None:
    found = run(f"import sys, romancy\nprint(*(name for name in {HEAVY!r} if name in sys.modules))")
    assert found == ""
