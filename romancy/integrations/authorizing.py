"""Who may use a router: it is said where the router is made, or nothing is mounted."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from romancy.integrations.problems import forbidden

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN: Literal["open"] = "open"
Authorize: TypeAlias = "Callable[..., Any] | Literal['open']"


def guard_of(authorize: Authorize | None) -> Callable[..., Any] | None:
    """Return what is to be asked about each request; None: nobody.

    Raises:
        TypeError: It was not said.
    """
    if authorize == OPEN:
        return None
    if not callable(authorize):
        msg = (
            f"authorize={authorize!r}: say who may use the routes: a callable that is given the request and raises or "
            'returns False for those who may not, or authorize="open" for everybody who can reach them'
        )
        raise TypeError(msg)
    return authorize


async def ask(guard: Callable[..., Any] | None, request: object) -> None:
    """Ask about a request.

    Raises:
        Problem: The answer is False.
        BaseException: What the guard raises.
    """
    if guard is None:
        return
    answer = guard(request)
    if inspect.isawaitable(answer):
        answer = await answer
    if answer is False:
        raise forbidden()
