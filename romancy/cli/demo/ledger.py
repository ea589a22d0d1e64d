"""A file that only grows, in which every body of an activity leaves its traces.

It stands for the world outside: what is written there has happened, whatever becomes of the process. Each line
is one JSON object, written by one call and synced: it is there after a SIGKILL, or it never happened.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


What = Literal["began", "done", "failed"]


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that a body did.

    Attributes:
        what: It ``began``, had its effect (``done``), or ``failed`` without one.
        instance: Whose activity it is.
        activity: The activity's id, such as ``2:charge``.
        attempt: The number of the attempt, from 1.
        key: The idempotency key that the outside world was given.
        pid: The process that did it.
        at: When, in epoch seconds.
        item: What was ordered.
        value: What the effect brought forth, or, of a compensation, what it undid.
    """

    what: What
    instance: str
    activity: str
    attempt: int
    key: str
    pid: int
    at: float
    item: str
    value: str = ""

    @property
    def operation(self) -> tuple[str, str]:
        """Instance and activity id: the same for every attempt."""
        return self.instance, self.activity

    @property
    def name(self) -> str:
        """The activity's name."""
        return self.activity.rpartition(":")[2]


class Ledger:
    """The file, to be written to. Any number of threads may write."""

    def __init__(self, path: Path) -> None:
        is_torn = path.exists() and not path.read_bytes().endswith(b"\n")
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if is_torn:
            os.write(self._file, b"\n")  # what a kill has torn must not take the next line along

    def write(self, line: Line) -> None:
        """Append a line; it is on disk when this returns."""
        os.write(self._file, msgspec.json.encode(line) + b"\n")
        os.fsync(self._file)


class LedgerReader:
    """The file, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.lines: list[Line] = []
        self._path = path
        self._offset = 0
        self._decoder = msgspec.json.Decoder(Line)

    def read(self) -> list[Line]:
        """Return the lines that are new since the last call, and keep them in ``lines``."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            grown = file.read()
        complete = grown[: grown.rfind(b"\n") + 1]
        self._offset += len(complete)
        new: list[Line] = []
        for text in complete.splitlines():
            try:
                new.append(self._decoder.decode(text))
            except msgspec.DecodeError:
                continue  # torn by a kill: it never happened
        self.lines += new
        return new
