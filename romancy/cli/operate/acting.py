"""``romancy cancel``, ``terminate``, ``pause``, ``unpause``, ``retry`` and ``purge``: one instance, or many."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeAlias

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from romancy.cli.operate.connecting import NOT_AGREED, Json, Url, Yes, is_agreed, run
from romancy.cli.operate.printing import print_json
from romancy.cli.operate.selecting import Filter, check_one_of
from romancy.client.bulk import Bulk, BulkProgress, Matching
from romancy.client.client import Client

Id: TypeAlias = Annotated[str | None, Parameter(help="The instance's id.")]
Where: TypeAlias = Annotated[Filter | None, Parameter(group="Instead of an id")]
Act: TypeAlias = Callable[[Client, str], Awaitable[int | None]]


def cancel(
    id: Id = None,
    /,
    *,
    url: Url,
    reason: str = "",
    grace: float | None = None,
    where: Where = None,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Ask an instance to cancel, or all that fit: they clean up, and undo what they have done.

    Args:
        reason: Why.
        grace: Seconds after which what has not ended is terminated.
    """
    return _act(
        Asked("cancel", id, where, json=json, yes=yes),
        url,
        lambda client, one: client.cancel(one, reason, grace=grace),
        lambda found: found.cancel(reason, grace=grace),
    )


def terminate(
    id: Id = None, /, *, url: Url, reason: str = "", where: Where = None, yes: Yes = False, json: Json = False
) -> int:
    """End an instance now, or all that fit, with all that they have started: nothing runs on, nothing is undone.

    Args:
        reason: Why.
    """
    return _act(
        Asked("terminate", id, where, json=json, yes=yes, question="End {} now, undoing nothing?"),
        url,
        lambda client, one: client.terminate(one, reason),
        lambda found: found.terminate(reason),
    )


def pause(id: Id = None, /, *, url: Url, where: Where = None, yes: Yes = False, json: Json = False) -> int:
    """Pause an instance, or all that fit: nothing of them begins any more until they go on."""
    asked = Asked("pause", id, where, json=json, yes=yes)
    return _act(asked, url, lambda client, one: client.pause(one), lambda found: found.pause())


def unpause(id: Id = None, /, *, url: Url, where: Where = None, yes: Yes = False, json: Json = False) -> int:
    """Let a paused instance go on, or all that fit."""
    asked = Asked("unpause", id, where, json=json, yes=yes)
    return _act(asked, url, lambda client, one: client.unpause(one), lambda found: found.unpause())


def retry(id: Id = None, /, *, url: Url, where: Where = None, yes: Yes = False, json: Json = False) -> int:
    """Let an instance go on that is blocked or has failed, or all that fit: where it stands, or failed.

    What has undone what it had done can't go on as if it had not: rerun it.
    """
    asked = Asked("retry", id, where, json=json, yes=yes)
    return _act(asked, url, lambda client, one: client.retry(one), lambda found: found.retry())


def purge(
    id: Id = None, /, *, url: Url, recursive: bool = True, where: Where = None, yes: Yes = False, json: Json = False
) -> int:
    """Delete an instance that has ended, or all that fit, with their histories and what they have started.

    Args:
        recursive: Also delete what they have started and not abandoned.
    """
    return _act(
        Asked("purge", id, where, json=json, yes=yes, question="Delete {} and what is known of it?"),
        url,
        lambda client, one: client.purge(one, recursive=recursive),
        lambda found: found.purge(recursive=recursive),
    )


class Asked:
    """What a command was asked: to do what, to whom, and whether it may without a question."""

    def __init__(
        self, command: str, id: str | None, where: Filter | None, *, json: bool, yes: bool, question: str = ""
    ) -> None:
        self.command = command
        self.id = id
        self.where = where
        self.json = json
        self.yes = yes
        self.question = question


def _act(asked: Asked, url: str, act: Act, act_on_all: Callable[[Matching], Bulk]) -> int:
    async def work(client: Client) -> int:
        check_one_of(asked.id, asked.where, asked.command)
        if asked.id is None and asked.where is not None:
            return await _act_on_all(asked, act_on_all(asked.where.of(client)))
        return await _act_on_one(asked, client, asked.id or "", act)

    return run(url, work)


async def _act_on_one(asked: Asked, client: Client, id: str, act: Act) -> int:
    await client.get(id)
    if asked.question and not is_agreed(asked.question.format(repr(id)), is_given=asked.yes):
        return NOT_AGREED
    count = await act(client, id)
    done = 1 if count is None else count
    if asked.json:
        print_json(BulkProgress(done=done))
    elif count is not None:
        print(f"{asked.command}: {done} done")
    return 0


async def _act_on_all(asked: Asked, bulk: Bulk) -> int:
    """Do it to many, and show how far it has come; an interruption tells where to go on."""
    total = await bulk.count()
    question = asked.question or f"{asked.command.capitalize()} {{}}?"
    if not is_agreed(question.format(f"{total} instances"), is_given=asked.yes or total == 0):
        return NOT_AGREED
    reached = BulkProgress()
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
            task = bar.add_task(asked.command, total=total)
            async for reached in bulk:
                bar.update(task, completed=reached.done + reached.refused)
    except asyncio.CancelledError:
        where = "from the beginning" if reached.cursor is None else f"with --after {reached.cursor}"
        print(f"romancy: interrupted after {reached.done} of {total}; go on {where}", file=sys.stderr)
        raise
    if asked.json:
        print_json(reached)
        return 0
    print(f"{asked.command}: {reached.done} done" + (f", {reached.refused} refused" if reached.refused else ""))
    for _, why in reached.refusals:
        print(f"  {why}", file=sys.stderr)
    return 0
