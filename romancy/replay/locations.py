"""Where in the author's code something happens, for messages."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_FOREIGN = ("romancy.", "asyncio", "anyio", "contextlib", "concurrent.")
_LOOP = "romancy.replay.loop"


def author_location() -> str:
    """Return ``file:line`` of the innermost frame outside romancy, asyncio and anyio; ``"?"`` if there is none.

    The search ends where the run's loop was entered: what lies beyond has not asked.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == _LOOP and frame.f_code.co_name == "drain":
            break
        if not module.startswith(_FOREIGN):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def coroutine_location(coro: object) -> str:
    """Return ``file:line`` of a coroutine: where its author's code waits, or begins if it has ended."""
    found = "?"
    while isinstance(coro, types.CoroutineType):
        frame: Any = coro.cr_frame
        line = coro.cr_code.co_firstlineno if frame is None else frame.f_lineno
        if found == "?" or (frame is not None and not frame.f_globals.get("__name__", "").startswith(_FOREIGN)):
            found = f"{coro.cr_code.co_filename}:{line}"
        coro = coro.cr_await
    return found
