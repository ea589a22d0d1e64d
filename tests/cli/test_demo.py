"""The demo itself, in real processes that are really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from romancy.cli.demo.orders import read_orders

ROOT = Path(__file__).parents[2]


def environment(directory: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": str(directory), "NO_COLOR": "1"}


def demo(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "romancy", "demo", *options],
        cwd=directory,
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


def test_demo_ends_every_order_although_it_was_killed_twice(tmp_path: Path) -> None:
    done = demo(tmp_path, "--orders", "40", "--kills", "2", "--json")
    assert (done.stderr, done.returncode) == ("", 0)
    report = json.loads(done.stdout)
    approvals = Counter(order.approval for order in read_orders(40))
    rejected = approvals["refused"] + approvals["unanswered"]
    numbers = report["numbers"]
    assert numbers["orders"] == 40
    assert numbers["completed"] == approvals["granted"]
    assert numbers["rejected"] == rejected
    assert numbers["activities"] == 3 * approvals["granted"] + 4 * rejected
    assert numbers["cut_short"] + numbers["ran_twice"] > 0
    assert len({kill["pid"] for kill in report["kills"]}) == 2
    assert all(found == {"ok": True, "problems": []} for found in report["checks"].values())
    assert report["ok"] is True
    assert list(tmp_path.iterdir()) == []


def test_demo_prints_plain_lines_where_there_is_no_terminal_and_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    done = demo(tmp_path, "--orders", "10", "--kills", "1", "--keep")
    assert (done.stderr, done.returncode) == ("", 0)
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert "no recorded activity was ever run again" in done.stdout
    (directory,) = tmp_path.iterdir()
    assert done.stdout.splitlines()[-1].endswith(str(directory))
    assert {"orders.db", "ledger.jsonl", "worker.log"} <= {path.name for path in directory.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_demo_that_is_stopped_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    # A shell starts what it runs in the background with SIGINT ignored, and children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    driver = subprocess.Popen(
        [sys.executable, "-m", "romancy", "demo"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert driver.stdout is not None
    pid = int(driver.stdout.readline().split()[-1])
    time.sleep(1)
    driver.send_signal(number)
    _, told = driver.communicate(timeout=20)
    if number is not signal.SIGKILL:
        assert (driver.returncode, told) == (130, "stopped; nothing is left running\n")
        assert list(tmp_path.iterdir()) == []
    until = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX signals")
def test_demo_whose_process_dies_by_itself_says_so_and_keeps_its_log(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-m", "romancy", "demo"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    pid = int(driver.stdout.readline().split()[-1])
    os.kill(pid, signal.SIGTERM)
    _, told = driver.communicate(timeout=20)
    assert driver.returncode == 1
    assert f"process {pid} ended by itself, with status -15" in told
    (directory,) = tmp_path.iterdir()
    assert (directory / "worker.log").is_file()
    assert str(directory) in told


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan may wait as a zombie for whoever inherits it
    try:
        return not status.is_file() or status.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("options", [["--orders", "9"], ["--orders", "301"], ["--kills", "-1"], ["--speed", "2"]])
def test_demo_refuses_options_that_make_no_sense(tmp_path: Path, options: list[str]) -> None:
    done = demo(tmp_path, *options)
    assert done.returncode != 0
    assert options[0] in done.stdout + done.stderr


def test_command_without_the_cli_extra_says_what_to_install(tmp_path: Path) -> None:
    block = "import sys; sys.modules['cyclopts'] = None; from romancy.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 2)
    assert done.stderr == 'romancy: cyclopts is missing: pip install "romancy[cli]"\n'


def test_command_tells_its_subcommands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "romancy", "--help"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "demo" in done.stdout
