"""``romancy list`` and ``romancy history``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from romancy.cli.operate.connecting import Json, Url, run
from romancy.client.client import Client
from romancy.client.info import HistoryEvent, InstanceInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLOURS = {
    "completed": "green",
    "failed": "red",
    "blocked": "red",
    "timed_out": "red",
    "cancelled": "yellow",
    "terminated": "yellow",
    "paused": "yellow",
}
_LONGEST_PAYLOAD = 200


def list_(
    *,
    url: Url,
    workflow: str | None = None,
    status: str | None = None,
    id_prefix: str | None = None,
    tag: Annotated[tuple[str, ...], Parameter(negative=(), help="A tag that it must have, as name:value.")] = (),
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
            workflow=workflow, status=status, id_prefix=id_prefix, tags=_tags_of(tag), after=after, limit=limit
        )
        following = found[-1].cursor if len(found) == limit else None
        if json:
            _print_json({"instances": found, "next": following})
            return 0
        Console().print(_table_of(found))
        if following is not None:
            Console(stderr=True).print(f"more: --after {following}", highlight=False)
        return 0

    return run(url, work)


def history(
    id: str, *, url: Url, number: Annotated[int | None, Parameter(name="--run")] = None, json: Json = False
) -> int:
    """Print what a run of an instance has recorded.

    Args:
        id: The instance's id.
        number: The run's number, from 0; by default the latest.
    """

    async def work(client: Client) -> int:
        events = await (await client.get(id)).history(run=number)
        if json:
            _print_json([_event_of(event) for event in events])
            return 0
        table = Table(box=None, pad_edge=False)
        for heading in ("seq", "turn", "at", "kind", "activity", "payload"):
            table.add_column(heading, overflow="fold")
        for event in events:
            payload = (event.payload or "")[:_LONGEST_PAYLOAD]
            shown = (f"{event.seq}", f"{event.turn}", _time_of(event.at), event.kind, event.activity_id or "", payload)
            table.add_row(*map(Text, shown))
        Console().print(table)
        return 0

    return run(url, work)


def _tags_of(given: tuple[str, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon:
            msg = f"--tag {each!r} must be a tag and its value, such as customer:7"
            raise ValueError(msg)
        found[name] = value
    return found


def _table_of(found: list[InstanceInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "workflow", "status", "started", "waiting on"):
        table.add_column(heading, overflow="fold")
    for info in found:
        waiting = ", ".join(wait.get("channel") or wait.get("instance") or wait["id"] for wait in info.waiting_on)
        status = Text(info.status, _COLOURS.get(info.status, ""))
        waiting = "" if info.closed_at is not None else waiting
        table.add_row(Text(info.id), Text(info.workflow), status, _time_of(info.created_at), Text(waiting))
    return table


def _event_of(event: HistoryEvent) -> dict[str, object]:
    payload = msgspec.Raw(b"null" if event.payload is None else event.payload.encode())
    return {**msgspec.structs.asdict(event), "payload": payload}


def _time_of(instant: datetime) -> str:
    return f"{instant.astimezone():%Y-%m-%d %H:%M:%S}"


def _print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value)).decode())
