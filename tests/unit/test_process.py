from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from romancy.worker.process import is_gone, this_process

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells when a process began")

_SCRIPT = "from romancy.worker.process import this_process; print(this_process(), flush=True); input()"


def test_this_process_is_not_gone() -> None:
    assert not is_gone(this_process())


@pytest.mark.parametrize("token", ["", "somewhere", "other-boot/pid:[1]/1/1"])
def test_process_of_nowhere_or_elsewhere_is_not_known_to_be_gone(token: str) -> None:
    assert not is_gone(token)


def test_process_with_a_number_that_was_used_before_is_gone() -> None:
    boot, namespace, pid, start = this_process().split("/")
    assert is_gone("/".join((boot, namespace, pid, str(int(start) - 1))))


def test_process_is_gone_once_it_is_killed() -> None:
    command = [sys.executable, "-c", _SCRIPT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        assert not is_gone(token)
        process.send_signal(signal.SIGSTOP)
        assert not is_gone(token)
        process.kill()
        process.wait()
        assert is_gone(token)
