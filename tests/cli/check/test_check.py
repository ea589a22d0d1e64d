"""``romancy check`` finds what is planted, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from romancy.cli.check.command import check, check_file
from romancy.cli.check.looking import check_source
from romancy.cli.check.names import Rule

from .corpus import FAULTS, RIGHT, Case

ROOT = Path(__file__).parents[3]


def source_of(case: Case) -> str:
    body = "\n".join(f"    {line}" for line in case.body.splitlines())
    return (
        f"from romancy import activity, workflow\n{case.head}\n\n@activity\nasync def act(*args, **kwargs): ...\n\n"
        f"@workflow\nasync def flow(items, first, start, loop, tz, tags: set[str]):\n{body}\n"
    )


def test_corpus_is_large_and_has_both_sides_of_every_rule() -> None:
    assert len(FAULTS) >= 60
    assert {rule for case in FAULTS for rule in case.rules} == {rule.value for rule in Rule}
    assert len({case.name for case in (*FAULTS, *RIGHT)}) == len(FAULTS) + len(RIGHT)


@pytest.mark.parametrize("case", FAULTS, ids=lambda case: case.name)
def test_planted_fault_is_found(case: Case) -> None:
    found = check_source(source_of(case), "flow.py")
    assert tuple(finding.rule.value for finding in found) == case.rules, found


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: case.name)
def test_nothing_is_found_in_what_is_right(case: Case) -> None:
    assert check_source(source_of(case), "flow.py") == []


def test_nothing_is_found_in_the_examples() -> None:
    paths = sorted((ROOT / "examples").glob("*.py"))
    assert len(paths) > 5
    assert [finding for path in paths for finding in check_file(path)] == []


def test_finding_names_the_place_and_the_replacement() -> None:
    source = "import time\nfrom romancy import workflow\n\n@workflow\nasync def flow():\n    return helper()\n\n"
    source += "def helper():\n    return [1,  time.time()]\n"
    (finding,) = check_source(source, "shop/orders.py")
    assert str(finding) == (
        "shop/orders.py:9:17: clock: time.time in helper, which workflow flow calls: "
        "romancy.now() is the same at every replay"
    )


@pytest.mark.parametrize("decorator", ["workflow", "workflow(version='2')", "romancy.workflow", "flows"])
def test_workflow_is_known_by_what_its_decorator_stands_for(decorator: str) -> None:
    head = "import romancy, time\nfrom romancy import workflow\nfrom romancy import workflow as flows\n"
    assert len(check_source(f"{head}@{decorator}\nasync def flow():\n    time.time()\n", "x")) == 1
    assert check_source(f"{head}@other.workflow\nasync def flow():\n    time.time()\n", "x") == []


def test_ignore_of_another_rule_does_not_count() -> None:
    source = "import time\nfrom romancy import workflow\n@workflow\nasync def flow():\n    time.time()"
    assert check_source(f"{source}  # romancy: ignore[uuid, clock]\n", "x") == []
    source += "  # romancy: ignore[uuid]\n"
    assert len(check_source(source, "x")) == 1


def test_command_prints_and_exits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text(source_of(FAULTS[0]))
    good.write_text(source_of(RIGHT[0]))
    assert check(str(good)) == 0
    assert capsys.readouterr().out == ""
    assert check(str(tmp_path)) == 1
    assert capsys.readouterr().out.startswith(f"{bad}:")
    assert check(str(bad), json=True) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert set(found) == {"path", "line", "column", "rule", "what", "instead", "function", "caller"}
    assert (found["rule"], found["function"], found["caller"]) == ("clock", "flow", None)


@pytest.mark.parametrize("target", ["nowhere.py", "no_such_module", "no.such.module", "", "/nowhere/at/all"])
def test_unusable_target_is_one_line_and_exit_2(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(target) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_no_target_and_broken_files_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check() == 2
    broken, binary = tmp_path / "broken.py", tmp_path / "binary.py"
    broken.write_text("def (:\n")
    binary.write_bytes(b"\xff\xfe")
    assert [check(str(broken)), check(str(binary))] == [2, 2]
    told = capsys.readouterr().err
    assert f"{broken}:1: " in told
    assert f"{binary} is not UTF-8" in told


def test_module_is_found_from_the_working_directory(tmp_path: Path) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "orders.py").write_text(source_of(FAULTS[0]))
    program = [sys.executable, "-m", "romancy", "check", "shop"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "clock" in done.stdout
    program[-1] = "shop.orders"
    assert subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False).returncode == 1
