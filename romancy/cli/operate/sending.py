"""``romancy send`` and ``romancy rerun``: what gives an instance something new."""

from __future__ import annotations

from typing import Annotated, Any, cast

import msgspec
from cyclopts import Parameter

from romancy.cli.operate.connecting import Json, Url, run
from romancy.cli.operate.printing import print_json
from romancy.cli.operate.selecting import tags_of
from romancy.client.client import Client
from romancy.workflows.channels import Channel


def send(id: str, channel: str, message: str, /, *, url: Url, message_id: str | None = None, json: Json = False) -> int:
    """Send a message to an instance.

    Args:
        id: The instance's id.
        channel: The channel's name.
        message: What it carries, as JSON: a text needs its quotes.
        message_id: A second message with this id is dropped.
    """

    async def work(client: Client) -> int:
        carrier: Channel[Any] = Channel(channel, object)
        await client.send(carrier, _decoded(message, "message"), to=id, message_id=message_id)
        if json:
            print_json({"to": id, "channel": channel})
        return 0

    return run(url, work)


def rerun(
    id: str,
    /,
    *,
    url: Url,
    from_activity: Annotated[str | None, Parameter(name="--from")] = None,
    input: str | None = None,
    new_id: str | None = None,
    tag: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    timeout: float | None = None,
    json: Json = False,
) -> int:
    """Start an instance that does again what another one has done, from its beginning or from one of its activities.

    The other is left as it is. What it had recorded before the activity is not run again.

    Args:
        id: The instance whose latest run is taken.
        from_activity: The id of an activity, child, timer or receive, as history and show print it: 3:charge.
        input: The arguments of that activity or child, or without --from the workflow's, as a JSON object by name.
        new_id: The new instance's id; by default a random one.
        tag: A tag of the new instance, as name:value; by default it has the other's.
        timeout: Seconds that the new instance may take.
    """

    async def work(client: Client) -> int:
        arguments = None if input is None else _decoded(input, "input")
        if arguments is not None and not isinstance(arguments, dict):
            msg = f'--input {input!r} must be a JSON object of the arguments by name, such as {{"order": 7}}'
            raise ValueError(msg)
        handle = await client.rerun(
            id,
            from_activity=from_activity,
            input=cast("dict[str, object] | None", arguments),
            new_id=new_id,
            tags=tags_of(tag) if tag else None,
            timeout=timeout,
        )
        if json:
            print_json({"id": handle.id})
        else:
            print(handle.id)
        return 0

    return run(url, work)


def _decoded(text: str, what: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as exc:
        msg = f"{what} {text!r} is no JSON: {exc}; a text needs quotes of its own"
        raise ValueError(msg) from exc
