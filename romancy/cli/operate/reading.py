"""``romancy list`` and ``romancy history``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from romancy.cli.operate.connecting import Json, Url, run
from romancy.cli.operate.printing import COLOURS, print_json, time_of
from romancy.cli.operate.selecting import Tags, tags_of
from romancy.client.client import Client
from romancy.client.info import InstanceInfo

_LONGEST_PAYLOAD = 200


def list_(
    *,
    url: Url,
    workflow: str | None = None,
    status: str | None = None,
    id_prefix: str | None = None,
    tag: Tags = (),
    after: str | None = None,
    limit: int = 50,
    json: Json = False,
) -> int:
    """List instances in the order of their start.

    With --json an object with `instances` and `next` is printed; `next` is what to pass as --after for those that
    follow, null: there are none.

    Args:
        workflow: Only those of this workflow.
        status: Only those with this status: pending, running, paused, blocked, completed, failed, cancelled,
            terminated, timed_out.
        id_prefix: Only those whose id begins so.
        tag: Only those with all of these tags.
        after: Only those after this cursor.
        limit: At most so many.
    """

    async def work(client: Client) -> int:
        found = await client.list(
            workflow=workflow, status=status, id_prefix=id_prefix, tags=tags_of(tag), after=after, limit=limit
        )
        following = found[-1].cursor if len(found) == limit else None
        if json:
            print_json({"instances": found, "next": following})
            return 0
        Console().print(_table_of(found))
        if following is not None:
            Console(stderr=True).print(f"more: --after {following}", highlight=False)
        return 0

    return run(url, work)


def history(
    id: str, /, *, url: Url, number: Annotated[int | None, Parameter(name="--run")] = None, json: Json = False
) -> int:
    """Print what a run of an instance has recorded.

    With --json an object is printed that holds all that is needed to replay the run elsewhere: see SavedHistory.

    Args:
        id: The instance's id.
        number: The run's number, from 0; by default the latest.
    """

    async def work(client: Client) -> int:
        handle = await client.get(id)
        if json:
            print_json(await handle.saved_history(run=number))
            return 0
        events = await handle.history(run=number)
        table = Table(box=None, pad_edge=False)
        for heading in ("seq", "turn", "at", "kind", "activity", "payload"):
            table.add_column(heading, overflow="fold")
        for event in events:
            payload = (event.payload or "")[:_LONGEST_PAYLOAD]
            shown = (f"{event.seq}", f"{event.turn}", time_of(event.at), event.kind, event.activity_id or "", payload)
            table.add_row(*map(Text, shown))
        Console().print(table)
        return 0

    return run(url, work)


def _table_of(found: list[InstanceInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "workflow", "status", "started", "waiting on"):
        table.add_column(heading, overflow="fold")
    for info in found:
        waiting = ", ".join(wait.get("channel") or wait.get("instance") or wait["id"] for wait in info.waiting_on)
        status = Text(info.status, COLOURS.get(info.status, ""))
        waiting = "" if info.closed_at is not None else waiting
        table.add_row(Text(info.id), Text(info.workflow), status, time_of(info.created_at), Text(waiting))
    return table
