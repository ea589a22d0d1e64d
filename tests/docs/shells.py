"""Follow a page word by word: save the files that it shows, type its commands into a shell, compare what they print."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .scripts import ROOT

_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^# (\S+\.py)\n")
_JOB = re.compile(r"^\S*: line \d+: +\d+ (Killed|Terminated)")
_INSTALLS = ("python3 -m venv", ". venv/bin/activate", "pip install")
"""Commands that make the environment: that of the tests has been made."""
_END = "--- done ---"


class Command(NamedTuple):
    """A command, and the lines that it is said to print; ``…`` stands for anything, a line of it for any lines."""

    text: str
    printed: list[str]


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the blocks of Python and of commands, in order."""
    return _BLOCK.findall(text)


def commands(block: str) -> list[Command]:
    """Return the commands of a block."""
    found: list[Command] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], []))
        else:
            found[-1].printed.append(line)
    return found


def pattern_of(printed: list[str]) -> re.Pattern[str]:
    """Return what the output of a command must fit."""
    parts = [
        r"(?:.*\n)*" if line == "…" else re.escape(line.rstrip()).replace("…", ".*") + r"[ \t]*\n" for line in printed
    ]
    return re.compile("".join(parts))


class Shell:
    """A bash in an empty directory, in which ``python`` and ``romancy`` are those of the tests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        programs = directory.parent / "programs"
        programs.mkdir()
        for name, what in (("python", ""), ("romancy", " -m romancy")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{what} "$@"\n')
            program.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name not in {"ROMANCY_URL", "FORCE_COLOR"}}
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env={
                **environment,
                "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "NO_COLOR": "1",
                "COLUMNS": "200",
                "LC_ALL": "C.UTF-8",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def type(self, command: str) -> str:
        """Type a command; return what is printed until it has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command}\necho '{_END}'\n")
        stdin.flush()
        lines: list[str] = []
        while (line := stdout.readline()) and line.rstrip() != _END:
            if not _JOB.match(line):
                lines.append(line)
        assert line, f"the shell has ended in {command!r}: {''.join(lines)}"
        return "".join(lines)

    def close(self) -> None:
        """End the shell, and what it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def follow(text: str, directory: Path) -> int:
    """Do what a page says; return how many commands that were."""
    shell = Shell(directory)
    count = 0
    try:
        for kind, block in blocks(text):
            if kind == "python":
                named = _FILE.match(block)
                assert named is not None, f"a block without the name of its file: {block[:80]}"
                (directory / named[1]).write_text(block, encoding="utf-8")
                continue
            for command in commands(block):
                if not command.text.startswith((*_INSTALLS, "mkdir", "cd ")):
                    count += 1
                    printed = shell.type(command.text)
                    assert pattern_of(command.printed).fullmatch(printed), f"$ {command.text}\n{printed}"
    finally:
        shell.close()
    return count
