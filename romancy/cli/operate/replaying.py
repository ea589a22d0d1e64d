"""``romancy replay``: would this code go on with what is in the database?"""

from __future__ import annotations

import importlib
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from romancy.cli.operate.connecting import Json, Url, run
from romancy.cli.operate.printing import print_json
from romancy.client.client import Client
from romancy.client.info import InstanceInfo
from romancy.client.replaying import replay as replay_case
from romancy.core import registry

_UNFIT = 1
_UNITS = {"m": 60, "h": 3_600, "d": 86_400}
_PAGE = 200


def replay(
    *modules: str,
    url: Url,
    since: Annotated[
        str, Parameter(help="Those started since then: 30m, 12h, 7d; and all that have not ended.")
    ] = "7d",
    workflow: str | None = None,
    json: Json = False,
) -> int:
    """Replay the histories in a database with the code of some modules, before it is deployed: does it fit them?

    No activity is run, nothing is written. The exit status is 1 if a history does not fit. With --json an object with
    `replayed`, a number, and `unfit`, an array of objects with `id`, `workflow`, `version` and `why`, is printed.

    Args:
        modules: Where the workflows are, such as shop.workflows.
        workflow: Only instances of this workflow.
    """

    async def work(client: Client) -> int:
        begin = datetime.now(UTC) - _span_of(since)
        _import(modules)
        replayed = 0
        unfit: list[dict[str, str]] = []
        screen = Console(stderr=True)
        columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
            task = bar.add_task("replay", total=await client.matching(workflow=workflow).count())
            after: str | None = None
            while page := await client.list(workflow=workflow, after=after, limit=_PAGE):
                after = page[-1].cursor
                wanted = [info for info in page if _is_wanted(info, begin)]
                replayed += len(wanted)
                unfit += [told for info in wanted if (told := await _unfit(client, info)) is not None]
                bar.advance(task, len(page))
        if json:
            print_json({"replayed": replayed, "unfit": unfit})
        else:
            for told in unfit:
                print(f"{told['id']} ({told['workflow']} version {told['version']}): {told['why']}")
            print(f"{replayed} replayed, {len(unfit)} do not fit")
        return _UNFIT if unfit else 0

    return run(url, work)


def _import(modules: tuple[str, ...]) -> None:
    if not modules:
        raise ValueError("replay needs the modules that the workflows are in, such as shop.workflows")
    sys.path.insert(0, "")  # as ``python -m`` does
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as exc:
            msg = f"module {module!r} can't be imported: {exc}"
            raise ValueError(msg) from exc


def _is_wanted(info: InstanceInfo, begin: datetime) -> bool:
    return info.started_at is not None and (info.closed_at is None or info.created_at >= begin)


async def _unfit(client: Client, info: InstanceInfo) -> dict[str, str] | None:
    """Return what is told of an instance that this code can't go on with; None: it can."""
    why = await _why_unfit(client, info)
    return None if why is None else {"id": info.id, "workflow": info.workflow, "version": info.version, "why": why}


async def _why_unfit(client: Client, info: InstanceInfo) -> str | None:
    definition = registry.find_workflow(info.workflow, info.version)
    if definition is None:
        return "no module that was given defines it"
    case = await (await client.get(info.id)).saved_history()
    try:
        replay_case(definition, case)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as exc:  # noqa: BLE001 - whatever the code raises, it does not fit
        return " ".join(f"{type(exc).__name__}: {exc}".split())
    return None


def _span_of(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([mhd])", text)
    if found is None:
        msg = f"--since {text!r} must be a number with m, h or d, such as 12h or 7d"
        raise ValueError(msg)
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])
