"""``romancy demo``."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from romancy.cli.demo.driver import Plan, Screen, drive
from romancy.cli.demo.evidence import Evidence
from romancy.cli.demo.orders import read_orders
from romancy.cli.demo.process import ProcessFailedError
from romancy.cli.demo.report import as_json, make_report, print_report
from romancy.cli.demo.screen import open_screen

_INTERRUPTED = 130


async def _drive(plan: Plan, directory: Path, screen: Screen) -> Evidence:
    """Drive, and take SIGTERM for Ctrl-C, so that it too leaves nothing behind."""
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):  # not on Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await drive(plan, directory, screen)


def demo(
    *,
    orders: Annotated[int, Parameter(validator=Number(gte=10, lte=300))] = 300,
    kills: Annotated[int, Parameter(validator=Number(gte=0, lte=10))] = 3,
    seed: int | None = None,
    keep: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Kill a process in the middle of a few hundred orders, and watch it finish them.

    The exit status is 0 if all checks hold.

    Args:
        orders: How many orders come in.
        kills: How often the process is killed with SIGKILL.
        seed: Repeats the delays, failing attempts and moments of the kills of another time.
        keep: Keep the database, the ledger and the process's log, and tell where they are.
        json: Print nothing but the outcome, as JSON.
    """
    console = Console()
    plan = Plan(read_orders(orders), kills, secrets.randbelow(1_000_000) if seed is None else seed)
    directory = Path(tempfile.mkdtemp(prefix="romancy-demo-"))
    is_kept = keep
    try:
        with open_screen(console, is_silent=json) as screen:
            evidence = asyncio.run(_drive(plan, directory, screen))
        report = make_report(evidence, seed=plan.seed, directory=str(directory) if keep else None)
        if not report.is_ok:
            is_kept = True
            report = make_report(evidence, seed=plan.seed, directory=str(directory))
        if json:
            print(as_json(report))
        else:
            print_report(report, console)
    except ProcessFailedError as exc:
        is_kept = True
        Console(stderr=True).print(f"{exc}\n\ndatabase, ledger and log: {directory}", markup=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        Console(stderr=True).print("stopped; nothing is left running")
        return _INTERRUPTED
    finally:
        if not is_kept:
            shutil.rmtree(directory, ignore_errors=True)
    return 0 if report.is_ok else 1
