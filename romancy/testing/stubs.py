"""Stand-ins for activities: what they return, raise or do instead, and how they were called."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from romancy.core.definitions import Activity

P = ParamSpec("P")
R = TypeVar("R")


class ActivityCalled:
    """One attempt at a stubbed activity: the arguments by their parameters' names."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActivityCalled) and self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash(tuple(self.arguments))

    def __repr__(self) -> str:
        return f"({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


class Stub(Generic[P, R]):
    """What stands in for an activity, and has been asked of it. Made by `TestEnvironment.stub`.

    Attributes:
        calls: Each attempt at it, in order.
    """

    def __init__(self, activity: Activity[P, R], act: Callable[P, Awaitable[R]]) -> None:
        self._activity = activity
        self._act = act
        self._signature = inspect.signature(activity.fn)
        self.calls: list[ActivityCalled] = []

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Note the attempt, and do what was asked for."""
        self.calls.append(self._bound(*args, **kwargs))
        return await self._act(*args, **kwargs)

    def _bound(self, *args: Any, **kwargs: Any) -> ActivityCalled:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return ActivityCalled(dict(bound.arguments))

    def assert_called_with(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Fail unless some attempt had these arguments.

        Raises:
            AssertionError: None had; the message shows what they had instead.
        """
        wanted = self._bound(*args, **kwargs)
        if wanted not in self.calls:
            raise AssertionError(self._difference(f"was not called with\n    {wanted}"))

    def assert_called_once_with(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Fail unless there was one attempt, with these arguments.

        Raises:
            AssertionError: There was none, there were several, or it had others.
        """
        if len(self.calls) != 1:
            raise AssertionError(self._difference(f"was called {len(self.calls)} times, not once"))
        self.assert_called_with(*args, **kwargs)

    def assert_not_called(self) -> None:
        """Fail if there was an attempt.

        Raises:
            AssertionError: There was.
        """
        if self.calls:
            raise AssertionError(self._difference("was called"))

    def _difference(self, what: str) -> str:
        calls = "\n".join(f"    {call}" for call in self.calls) or "    not at all"
        return f"activity {self._activity.name!r} {what}\nit was called with\n{calls}"

    def __repr__(self) -> str:
        return f"<stub of activity {self._activity.name!r}, called {len(self.calls)} times>"


def acting(
    returns: object, raises: BaseException | type[BaseException] | None, calls: Callable[..., object] | None
) -> Callable[..., Awaitable[Any]]:
    """Return what a stub does: return a value, raise an exception, or call a function."""

    async def act(*args: Any, **kwargs: Any) -> object:
        if raises is not None:
            raise raises
        if calls is None:
            return returns
        found = calls(*args, **kwargs)
        return await found if inspect.isawaitable(found) else found

    return act
