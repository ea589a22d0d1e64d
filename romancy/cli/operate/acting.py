"""``romancy send``, ``cancel``, ``terminate``, ``pause``, ``unpause`` and ``purge``."""

from __future__ import annotations

from typing import Any

import msgspec

from romancy.cli.operate.connecting import Url, Yes, is_agreed, run
from romancy.client.client import Client
from romancy.workflows.channels import Channel

_NOT_AGREED = 1


def send(id: str, channel: str, message: str, *, url: Url, message_id: str | None = None) -> int:
    """Send a message to an instance.

    Args:
        id: The instance's id.
        channel: The channel's name.
        message: What it carries, as JSON: a text needs its quotes.
        message_id: A second message with this id is dropped.
    """

    async def work(client: Client) -> int:
        try:
            value: object = msgspec.json.decode(message)
        except msgspec.DecodeError as exc:
            msg = f"{message!r} is no JSON: {exc}; a text needs quotes of its own"
            raise ValueError(msg) from exc
        carrier: Channel[Any] = Channel(channel, object)
        await client.send(carrier, value, to=id, message_id=message_id)
        return 0

    return run(url, work)


def cancel(id: str, *, url: Url, reason: str = "", grace: float | None = None) -> int:
    """Ask an instance to cancel: it cleans up, and undoes what it has done.

    Args:
        id: The instance's id.
        reason: Why.
        grace: Seconds after which it is terminated if it has not ended.
    """

    async def work(client: Client) -> int:
        await client.cancel(id, reason, grace=grace)
        return 0

    return run(url, work)


def terminate(id: str, *, url: Url, reason: str = "", yes: Yes = False) -> int:
    """End an instance now, and all that it has started: nothing of it runs any more, and nothing is undone.

    Args:
        id: The instance's id.
        reason: Why.
    """

    async def work(client: Client) -> int:
        await client.get(id)
        if not is_agreed(f"End {id!r} now, undoing nothing?", is_given=yes):
            return _NOT_AGREED
        await client.terminate(id, reason)
        return 0

    return run(url, work)


def pause(id: str, *, url: Url) -> int:
    """Pause an instance: nothing of it begins any more until it goes on.

    Args:
        id: The instance's id.
    """

    async def work(client: Client) -> int:
        await client.pause(id)
        return 0

    return run(url, work)


def unpause(id: str, *, url: Url) -> int:
    """Let a paused instance go on.

    Args:
        id: The instance's id.
    """

    async def work(client: Client) -> int:
        await client.unpause(id)
        return 0

    return run(url, work)


def purge(id: str, *, url: Url, recursive: bool = True, yes: Yes = False) -> int:
    """Delete an instance that has ended, with its history, and what it has started and not abandoned.

    Args:
        id: The instance's id.
        recursive: Also delete what it has started.
    """

    async def work(client: Client) -> int:
        await client.get(id)
        if not is_agreed(f"Delete {id!r} and its history?", is_given=yes):
            return _NOT_AGREED
        print(f"deleted: {await client.purge(id, recursive=recursive)}")
        return 0

    return run(url, work)
