"""The conformance suite itself: that joining it means to run all of it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from romancy.storage import protocol
from romancy.testing import storage_suite
from romancy.testing.storage_suite import TABLES, StorageSuite
from romancy.testing.storage_suite.suite import Suite

MODULES = [
    importlib.import_module(f"{storage_suite.__name__}.{module.name}")
    for module in pkgutil.iter_modules(storage_suite.__path__)
]


def suites() -> list[type]:
    return [
        value
        for module in MODULES
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Suite)
        and value.__module__ == module.__name__
        and value is not Suite
    ]


def test_whole_suite_contains_every_class() -> None:
    assert [suite.__name__ for suite in suites() if not issubclass(StorageSuite, suite)] == []
    assert [suite.__name__ for suite in suites() if suite.__name__ not in storage_suite.__all__] == []


def test_no_test_hides_another_of_the_same_name() -> None:
    names = Counter(name for suite in suites() for name in vars(suite) if name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_test_hides_another_in_its_own_class() -> None:
    for module in MODULES:
        names = Counter(re.findall(r"^    async def (test_\w+)", Path(str(module.__file__)).read_text(), re.MULTILINE))
        assert [name for name, count in names.items() if count > 1] == [], module.__name__


def test_every_method_of_the_protocol_is_called() -> None:
    called = {name for module in MODULES for name in re.findall(r"\.(\w+)\(", Path(str(module.__file__)).read_text())}
    for kind in (protocol.Storage, protocol.Transaction):
        methods = {name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))}
        assert methods - called == set(), kind.__name__


def test_suite_knows_no_back_end() -> None:
    for module in MODULES:
        source = Path(str(module.__file__)).read_text()
        assert not re.search(r"sqlite|postgres|asyncpg", source, re.IGNORECASE), module.__name__
        assert not re.search(r"(?<!self)\._[a-z]", source), module.__name__


def test_tables_are_those_of_the_schema() -> None:
    script = (Path(protocol.__file__).parent / "migrations" / "sqlite" / "0001_initial.sql").read_text()
    assert sorted({*TABLES, "migrations"}) == sorted(re.findall(r"^CREATE TABLE (\w+)", script, re.MULTILINE))


_WITHOUT = ("-p", "no:cacheprovider", "-p", "no:asyncio")


def test_failing_assertion_of_the_suite_shows_its_values(tmp_path: Path) -> None:
    joining = """
import pytest
from romancy.storage.sqlite import SqliteStorage
from romancy.testing.clock import ShiftedClock
from romancy.testing.storage_suite import Database, HistorySuite

class Forgetful(SqliteStorage):
    async def history(self, key, **_):
        return ["something else"]

class Forgotten(Database):
    def __init__(self):
        self.clock = ShiftedClock()

    def storage(self):
        return Forgetful("sqlite://", clock=self.clock)

    async def execute(self, sql):
        return []

class TestForgetful(HistorySuite):
    @pytest.fixture
    def database(self):
        return Forgotten()
"""
    (tmp_path / "test_joining.py").write_text(joining)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            *("-p", "no:cacheprovider", "-p", "no:asyncio"),
            "-W",
            "error",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=60,
    )
    assert "['something else'] == []" in done.stdout, done.stdout + done.stderr
    assert "5 failed, 2 passed" in done.stdout
