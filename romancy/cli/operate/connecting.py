"""How a command comes to its database, and what becomes of its errors."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from romancy.app import App
from romancy.client.client import Client
from romancy.errors import DOCUMENTATION, RomancyError, page_of

NOT_AGREED = 1
"""The exit status of a command that was not agreed to."""
UNUSABLE = 2
"""The exit status of a command that was given something that it can't use: an id, a URL, a filter."""

INTERRUPTED = 130
"""The exit status of a command that was interrupted."""

Url: TypeAlias = Annotated[str, Parameter(env_var="ROMANCY_URL", help="The database; by default $ROMANCY_URL.")]
Json: TypeAlias = Annotated[bool, Parameter(negative=(), help="Print JSON.")]
Yes: TypeAlias = Annotated[bool, Parameter(name=["--yes", "-y"], negative=(), help="Do not ask.")]


def run(url: str, work: Callable[[Client], Awaitable[int]]) -> int:
    """Do a command's work on an open database, and return its exit status; an error is one line."""
    return one_line(lambda: asyncio.run(_run(url, work)))


def one_line(work: Callable[[], int]) -> int:
    """Do something, and return its exit status; what it can't use is told in one line."""
    logging.getLogger("romancy").addHandler(logging.NullHandler())  # what is wrong is told once, by the line below
    try:
        return work()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (RomancyError, ValueError, OSError) as exc:
        print(told(exc), file=sys.stderr)
        return UNUSABLE


def told(exc: Exception) -> str:
    """Return an error in a line, with where it is described."""
    page = page_of(type(exc)) if isinstance(exc, RomancyError) else f"{DOCUMENTATION}/how-to/command-line.html"
    return f"romancy: {' '.join(str(exc).split())} (see {page})"


async def _run(url: str, work: Callable[[Client], Awaitable[int]]) -> int:
    # It is the services' to bring the schema up to date; a look must not make a database, nor change one.
    async with App(url, worker=False, migrate=False) as app:
        return await work(app.client)


def is_agreed(question: str, *, is_given: bool) -> bool:
    """Ask, unless the answer was given; where nobody can be asked, nothing is agreed."""
    if is_given:
        return True
    if not sys.stdin.isatty():
        print(f"romancy: {question} Nobody can be asked here: pass --yes", file=sys.stderr)
        return False
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
