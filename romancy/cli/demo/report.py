"""How a demo's outcome is told: a table, a few plain lines, or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from romancy.cli.demo.checks import Check, check
from romancy.cli.demo.evidence import Evidence, Numbers, count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

_PROBLEMS_SHOWN = 5


class Report(msgspec.Struct, frozen=True):
    """The outcome: what happened, in numbers, and whether all holds that must."""

    numbers: Numbers
    checks: list[Check]
    kills: list[dict[str, int]]
    seconds: float
    seed: int
    directory: str | None = None

    @property
    def is_ok(self) -> bool:
        """Whether every check holds."""
        return all(found.is_ok for found in self.checks)


def make_report(evidence: Evidence, *, seed: int, directory: str | None) -> Report:
    """Count and check; ``directory`` is where database and ledger were left, if they were."""
    return Report(
        numbers=count(evidence),
        checks=check(evidence),
        kills=[{"pid": kill.pid, "ended": kill.ended, "under_way": kill.under_way} for kill in evidence.kills],
        seconds=round(evidence.seconds, 1),
        seed=seed,
        directory=directory,
    )


def as_json(report: Report) -> str:
    """Return the report for programs."""
    told = msgspec.to_builtins(report)
    told["checks"] = {
        found.name: {"ok": found.is_ok, "problems": found.problems[:_PROBLEMS_SHOWN]} for found in report.checks
    }
    told["ok"] = report.is_ok
    return msgspec.json.format(msgspec.json.encode(told), indent=2).decode()


def print_report(report: Report, console: Console) -> None:
    """Print the report for people."""
    if console.is_terminal:
        console.print(_table(report, _marks(console)))
    else:
        console.print(_title(report), highlight=False, soft_wrap=True)
        for label, number in _rows(report.numbers):
            console.print(f"{number:>6}  {label}", highlight=False, soft_wrap=True)
        for found in report.checks:
            console.print(f"{_marks(console)[found.is_ok]:>6}  {found.claim}", highlight=False, soft_wrap=True)
    for problem in _problems(report):
        console.print(Text(problem, style="red"), soft_wrap=True)
    if report.directory is not None:
        console.print(f"database, ledger and log: {report.directory}", highlight=False, soft_wrap=True)


def _title(report: Report) -> str:
    kills = len(report.kills)
    times = {1: "once", 2: "twice"}.get(kills, f"{kills} times")
    return f"{report.numbers.orders} orders in {report.seconds:.0f} s, killed {times}"


def _rows(numbers: Numbers) -> list[tuple[str, int]]:
    return [
        ("orders completed", numbers.completed),
        ("orders rejected, and taken back", numbers.rejected),
        ("activities recorded", numbers.activities),
        ("attempts that failed and were retried", numbers.retried),
        ("bodies cut short by a kill, begun again", numbers.cut_short),
        ("bodies run twice: killed between effect and record", numbers.ran_twice),
    ]


def _marks(console: Console) -> dict[bool, str]:
    if console.encoding.lower().startswith("utf"):
        return {True: "✓", False: "✗"}
    return {True: "ok", False: "FAILED"}


def _table(report: Report, marks: dict[bool, str]) -> Table:
    table = Table(
        title=_title(report),
        title_justify="left",
        title_style="bold",
        box=box.ROUNDED,
        show_header=False,
    )
    table.add_column()
    table.add_column(justify="right")
    for label, number in _rows(report.numbers):
        table.add_row(label, str(number))
    table.add_section()
    for found in report.checks:
        table.add_row(found.claim, Text(marks[found.is_ok], style="green" if found.is_ok else "bold red"))
    return table


def _problems(report: Report) -> Iterator[str]:
    for found in report.checks:
        for problem in found.problems[:_PROBLEMS_SHOWN]:
            yield f"{found.name}: {problem}"
        if len(found.problems) > _PROBLEMS_SHOWN:
            yield f"{found.name}: and {len(found.problems) - _PROBLEMS_SHOWN} more"
