from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.cli.demo.ledger import Ledger, LedgerReader, Line

if TYPE_CHECKING:
    from pathlib import Path


def line(attempt: int) -> Line:
    return Line(what="began", instance="a", activity="1:ship", attempt=attempt, key="k", pid=1, at=0.5, item="kettle")


def test_reader_returns_new_lines_once_and_keeps_all(tmp_path: Path) -> None:
    reader = LedgerReader(tmp_path / "ledger")
    assert reader.read() == []
    ledger = Ledger(tmp_path / "ledger")
    ledger.write(line(1))
    assert reader.read() == [line(1)]
    ledger.write(line(2))
    assert reader.read() == [line(2)]
    assert reader.lines == [line(1), line(2)]


def test_line_that_a_kill_has_torn_never_happened_and_takes_no_other_along(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    Ledger(path).write(line(1))
    with path.open("ab") as file:
        file.write(b'{"what":"began","inst')
    reader = LedgerReader(path)
    assert reader.read() == [line(1)]
    Ledger(path).write(line(2))
    assert reader.read() == [line(2)]
