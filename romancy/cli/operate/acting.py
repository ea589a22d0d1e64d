"""``romancy send``, ``cancel``, ``terminate``, ``pause``, ``unpause`` and ``purge``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
    return _do(url, lambda client: client.cancel(id, reason, grace=grace))


def terminate(id: str, *, url: Url, reason: str = "", yes: Yes = False) -> int:
    """End an instance now, and all that it has started: nothing of it runs any more, and nothing is undone.

    Args:
        id: The instance's id.
        reason: Why.
    """
    question = f"End {id!r} now, undoing nothing?"
    return _do_if_agreed(url, id, question, lambda client: client.terminate(id, reason), is_agreed_to=yes)


def pause(id: str, *, url: Url) -> int:
    """Pause an instance: nothing of it begins any more until it goes on.

    Args:
        id: The instance's id.
    """
    return _do(url, lambda client: client.pause(id))


def unpause(id: str, *, url: Url) -> int:
    """Let a paused instance go on.

    Args:
        id: The instance's id.
    """
    return _do(url, lambda client: client.unpause(id))


def purge(id: str, *, url: Url, recursive: bool = True, yes: Yes = False) -> int:
    """Delete an instance that has ended, with its history, and what it has started and not abandoned.

    Args:
        id: The instance's id.
        recursive: Also delete what it has started.
    """

    async def delete(client: Client) -> None:
        print(f"deleted: {await client.purge(id, recursive=recursive)}")

    return _do_if_agreed(url, id, f"Delete {id!r} and its history?", delete, is_agreed_to=yes)


def _do(url: str, act: Callable[[Client], Awaitable[None]]) -> int:
    async def work(client: Client) -> int:
        await act(client)
        return 0

    return run(url, work)


def _do_if_agreed(
    url: str, id: str, question: str, act: Callable[[Client], Awaitable[None]], *, is_agreed_to: bool
) -> int:
    """Do what can't be undone, to an instance that is there, if somebody agrees."""

    async def work(client: Client) -> int:
        await client.get(id)
        if not is_agreed(question, is_given=is_agreed_to):
            return _NOT_AGREED
        await act(client)
        return 0

    return run(url, work)
