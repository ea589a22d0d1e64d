"""Calls: durable operations as awaitable values.

A `Call` describes one operation. It takes its activity id when it is created, so that `gather`, `wait_for`,
`shield` or `create_task` around it change nothing.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine, Generator
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, TypeVar, cast

from romancy.core import registry
from romancy.errors import NotInWorkflowError, OutsideWorkflowError

if TYPE_CHECKING:
    from types import TracebackType

    from romancy.core.definitions import Activity, Workflow
    from romancy.core.events import Envelope
    from romancy.core.requests import Request

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_get_running_loop = asyncio._get_running_loop  # noqa: SLF001 - the C accessor: this is on the hottest path


class CallKind(StrEnum):
    """Say what a call is; recorded with its id and checked on replay."""

    ACTIVITY = "activity"
    RECEIVE = "receive"
    TRY_RECEIVE = "try_receive"
    SEND = "send"
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    CHILD = "child"
    SIDE_EFFECT = "side_effect"


class CurrentRun(Protocol):
    """What a call needs of the workflow run that it is made in."""

    def identify(self, call: Call[object]) -> None:
        """Give the call its id and its hash.

        Raises:
            SuspendSignal: The call is not what is recorded in its place.
        """
        ...

    def request(self, call: Call[object]) -> asyncio.Future[object]:
        """Ask for the operation; the future is resolved by a release."""
        ...

    @property
    def is_poisoned(self) -> bool:
        """Whether the run is leaving memory."""
        ...


def current_run() -> CurrentRun | None:
    """Return the run whose code is executing, or None outside of workflow code."""
    run: CurrentRun | None = getattr(_get_running_loop(), "romancy_run", None)
    return run


class Call(Coroutine[object, None, R_co], Generic[R_co]):
    """One durable operation, described by calling a definition.

    Awaited in a workflow it is the operation. Handed to `App.start` or `recur` it is the description of one.
    Two equal calls are two operations: equality is identity. It can be awaited once, and warns if it never is.
    """

    __slots__ = (
        "__weakref__",
        "_iterator",
        "_run",
        "_used",
        "activity_id",
        "block",
        "future",
        "name",
        "ordinal_hash",
        "scheduled_at",
    )
    kind: CallKind
    activity_id: str
    future: asyncio.Future[object]
    ordinal_hash: int
    scheduled_at: int
    """The stamp of the turn that asked for it, once it was asked for."""
    block: object
    """The saga block that it was made in; not set while the run has opened none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._iterator: Generator[object, None, object] | None = None
        self._used = False
        run: CurrentRun | None = getattr(_get_running_loop(), "romancy_run", None)
        self._run = run
        if run is None:
            self.activity_id = ""
        else:
            run.identify(self)

    def _begin(self) -> Generator[object, None, object]:
        if self._used:
            msg = f"{self!r} was awaited already: call the definition again for another operation"
            raise RuntimeError(msg)
        self._used = True
        run = self._run
        if run is None:
            if current_run() is not None:
                msg = f"{self!r} was made outside of the workflow that awaits it: make the call where you await it"
                raise NotInWorkflowError(msg)
            return self._outside().__await__()
        running: CurrentRun | None = getattr(_get_running_loop(), "romancy_run", None)
        if run is not running:
            msg = f"{self!r} belongs to another run: make the call where you await it"
            raise NotInWorkflowError(msg)
        return run.request(self).__await__()

    def _outside(self) -> Coroutine[object, None, R_co]:
        """Run the operation where no workflow is around it."""
        msg = f"{self.kind.value} {self.name!r} was awaited where no workflow runs"
        raise OutsideWorkflowError(msg)

    def __await__(self) -> Generator[object, None, R_co]:
        return cast("Generator[object, None, R_co]", self._begin())

    def send(self, value: None) -> object:
        """Advance the operation, as a coroutine is advanced by its task."""
        if self._iterator is None:
            self._iterator = self._begin()
        return self._iterator.send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> object:
        """Raise an exception where the operation waits, as a task does when it is cancelled."""
        if self._iterator is None:
            self._used = True
            self._raise(typ, val)
        throw = cast("Callable[..., object]", self._iterator.throw)
        if val is None and tb is None:
            return throw(typ)
        return throw(typ, val, tb)

    @staticmethod
    def _raise(typ: type[BaseException] | BaseException, val: object) -> NoReturn:
        if isinstance(typ, BaseException):
            raise typ
        if isinstance(val, BaseException):
            raise val
        raise typ

    def close(self) -> None:
        """Mark the call as dealt with, so that it does not warn."""
        self._used = True
        if self._iterator is not None:
            self._iterator.close()

    def spend(self) -> None:
        """Set the call aside as the description of an operation, without a warning that it was never awaited.

        Raises:
            RuntimeError: It was awaited, or set aside, before.
            NotInWorkflowError: It was not made in the running workflow.
        """
        if self._used:
            msg = f"{self!r} was used already: call the definition again for another operation"
            raise RuntimeError(msg)
        if self._run is None or self._run is not current_run():
            msg = f"{self!r} was not made in the workflow that uses it: make the call where you use it"
            raise NotInWorkflowError(msg)
        self._used = True

    def resume(self) -> None:
        """Let a call that was set aside be awaited after all."""
        self._used = False

    def __hash__(self) -> int:
        return self.ordinal_hash if self._run is not None else object.__hash__(self)

    __eq__ = object.__eq__

    def __repr__(self) -> str:
        return f"<Call {self.activity_id or self.name}>"

    def __del__(self) -> None:
        run = getattr(self, "_run", None)
        if run is not None and not self._used and not run.is_poisoned:
            warnings.warn(f"{self!r} was never awaited", RuntimeWarning, stacklevel=2, source=self)


class ActivityCall(Call[R_co]):
    """A call of an activity.

    Once it was asked for, it has its encoded ``arguments``, the number of its next ``attempt`` (from 1), the instant
    before which that must not begin (``not_before``). Once an attempt has left some, it has the encoded ``details`` of
    its last heartbeat. In a run that was retried, what was asked for since has a ``mark``.
    """

    __slots__ = (
        "args",
        "arguments",
        "attempt",
        "definition",
        "details",
        "kwargs",
        "mark",
        "not_before",
    )
    kind = CallKind.ACTIVITY
    arguments: bytes
    attempt: int
    not_before: int
    details: bytes
    mark: str

    def __init__(self, definition: Activity[..., R_co], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.definition = definition
        self.args = args
        self.kwargs = kwargs
        super().__init__(definition.name)

    async def _outside(self) -> R_co:
        if self.definition.is_async:
            return await cast("Coroutine[object, None, R_co]", self.definition.fn(*self.args, **self.kwargs))
        return await asyncio.to_thread(cast("Callable[..., R_co]", self.definition.fn), *self.args, **self.kwargs)


class WorkflowCall(Call[R_co]):
    """A call of a workflow: awaited in a workflow it is a child; else what `App.start`, `start_child` and others take.

    Once a child was asked for, ``child_id`` is its instance id; ``is_started`` says whether it is known to be there.
    """

    __slots__ = ("args", "child_id", "definition", "is_started", "kwargs")
    kind = CallKind.CHILD
    child_id: str

    def __init__(self, definition: Workflow[..., R_co], args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.definition = definition
        self.args = args
        self.kwargs = kwargs
        self.is_started = False
        super().__init__(definition.name)

    async def _outside(self) -> R_co:
        return await registry.the_open_app(self.name).run(self)


class ReceiveCall(Call[R_co]):
    """A wait for the next message of a mailbox: a channel's own, or a subscription's.

    With ``is_competing`` it has to be asked of the channel's topic.
    """

    __slots__ = ("is_competing", "mailbox", "read", "timeout")
    kind = CallKind.RECEIVE

    def __init__(
        self,
        channel: str,
        read: Callable[[Envelope], R_co],
        timeout: float | None,
        *,
        mailbox: str = "",
        is_competing: bool = False,
    ) -> None:
        self.read = read
        self.timeout = timeout
        self.mailbox = mailbox or channel
        self.is_competing = is_competing
        super().__init__(channel)


class RequestCall(Call[R_co]):
    """Something that is asked of the turn's commit, and answered by it.

    ``ask`` makes the request under an activity id, and ``read`` makes the operation's result of the recorded outcome,
    or raises what the outcome means. ``to`` is the instance that it is addressed to, if it is to one.
    """

    __slots__ = ("ask", "kind", "read", "to")
    kind: CallKind

    def __init__(
        self,
        kind: CallKind,
        name: str,
        ask: Callable[[str], Request],
        read: Callable[[bytes], R_co],
        *,
        to: str | None = None,
    ) -> None:
        self.kind = kind
        self.ask = ask
        self.read = read
        self.to = to
        super().__init__(name)
