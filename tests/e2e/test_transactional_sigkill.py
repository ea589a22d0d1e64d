"""Processes killed for real while transactional activities commit: no money is lost, and none is moved twice."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from .processes import running
from .scripts.transfer import PRICE

pytestmark = pytest.mark.anyio

_RUNS = 4
_MOVES = 3 * _RUNS


def look(path: Path) -> tuple[list[str], list[str], dict[str, int]]:
    """Return the moves, the recorded results, each by its operation, and the balances; let no dead session wait."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE sessions SET expires_at = 0")
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'moves'").fetchone() is None:
            return [], [], {"payer": 1_000, "shop": 0}
        moves = [operation for (operation,) in db.execute("SELECT operation FROM moves ORDER BY 1")]
        recorded = db.execute(
            "SELECT execution_id, history.run, activity_id FROM history JOIN instances USING (key)"
            " WHERE activity_id LIKE '%:transfer_move'"
        )
        keys = sorted(f"{execution:016x}/{run}/{id}" for execution, run, id in recorded)
        return moves, keys, dict(db.execute("SELECT name, balance FROM accounts"))


@pytest.mark.parametrize("moment", ["begun", "written", "committed"])
async def test_killed_process_has_moved_money_exactly_as_often_as_is_recorded(
    tmp_path: Path, hot_limit: int, moment: str
) -> None:
    path = tmp_path / "test.db"
    kills = 0
    while True:
        fatal = {"DIE_AT": str(2 + kills % 3), "DIE_WHEN": moment}
        async with running("transfer.py", f"sqlite:///{path}", hot_limit, _RUNS, environment=fatal) as process:
            printed = await process.lines()
            status = await process.end()
        moves, recorded, balances = look(path)
        assert moves == recorded
        assert balances == {"payer": 1_000 - PRICE * len(moves), "shop": PRICE * len(moves)}
        if status == 0:
            break
        assert status == -signal.SIGKILL, process.errors
        kills += 1
        assert kills < 40
    assert kills >= 3
    assert len(set(moves)) == _MOVES
    assert printed == [str([PRICE * n for n in range(1, _MOVES + 1)])]
