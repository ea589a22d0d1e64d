"""Tasks, futures and handles of the replay loop.

Their hashes count up from a salt of the run: asyncio keeps tasks and futures in sets, and sets must not decide an
order by addresses. Equality stays identity.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable, Iterator, MutableSet
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from romancy.core.calls import Call
    from romancy.replay.ids import Scope
    from romancy.replay.loop import ReplayLoop
    from romancy.replay.operations import Operations

T = TypeVar("T")


class ReplayHandle(asyncio.Handle):
    """A callback in the ready queue. Built without `asyncio.Handle.__init__`, which costs more than the callback."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: ReplayLoop, context: Any) -> None:
        self._context = context if context is not None else contextvars.copy_context()
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class ReplayTimerHandle(asyncio.TimerHandle):
    """A durable timer: its id, and its deadline in epoch microseconds."""

    __slots__ = ("deadline", "timer_id")

    timer_id: str
    deadline: int


class ReplayFuture(asyncio.Future[T]):
    """A future whose hash is its number in the run."""

    __slots__ = ("ordinal_hash",)
    ordinal_hash: int

    def __hash__(self) -> int:
        return self.ordinal_hash

    __eq__ = object.__eq__


class OperationFuture(ReplayFuture[Any]):
    """The future of a durable operation: tells the run's operations when it is cancelled."""

    __slots__ = ("call", "operations")
    call: Call[object]
    operations: Operations

    def cancel(self, msg: object | None = None) -> bool:
        """Cancel the wait; the operation is withdrawn if nobody else can want it."""
        if super().cancel(msg):
            self.operations.cancelled(self.call)
            return True
        return False


class ReplayTask(asyncio.Task[T]):
    """A task of a run.

    Attributes:
        scope: Where its operations are counted.
        strikes: How often it was refused something since the run is leaving memory.
        transparent_of: The task on whose behalf `wait_for` made this one (Python 3.11), if it did.
    """

    __slots__ = ("ordinal_hash", "scope", "strikes", "transparent_of")
    ordinal_hash: int
    scope: Scope
    strikes: int
    transparent_of: asyncio.Task[Any] | None

    def __hash__(self) -> int:
        return self.ordinal_hash

    __eq__ = object.__eq__

    def cancel(self, msg: object | None = None) -> bool:
        """Cancel the task, unless the run is leaving memory.

        Then a `TaskGroup` would otherwise turn a sibling's pending `SuspendSignal` into a cancellation, and the
        author's cancellation handlers would run.
        """
        loop: Any = self.get_loop()
        if loop.poison is not None:
            return False
        return super().cancel(msg)


class OrderedIdentitySet(MutableSet[T]):
    """A set by identity that iterates in the order of insertion."""

    __slots__ = ("_members",)

    def __init__(self, members: Iterable[T] = ()) -> None:
        self._members = {id(member): member for member in members}

    def __contains__(self, member: object) -> bool:
        return id(member) in self._members

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._members.values()))

    def __len__(self) -> int:
        return len(self._members)

    def add(self, value: T) -> None:
        """Add a member, at the end if it is new."""
        self._members[id(value)] = value

    def discard(self, value: T) -> None:
        """Remove a member if it is there."""
        self._members.pop(id(value), None)
