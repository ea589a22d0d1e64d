"""The decorators `workflow` and `activity`, and what they make of a function."""

from __future__ import annotations

import inspect
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, cast, overload
from weakref import WeakSet

import msgspec

from romancy.core import registry
from romancy.core.calls import ActivityCall, Call, WorkflowCall
from romancy.core.codec import Subject
from romancy.core.retry import RetryPolicy
from romancy.core.signatures import Signature
from romancy.errors import DefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
_LONGEST_NAME = 200


def _callers_locals() -> Mapping[str, object]:
    """Return the local names of the frame that decorates: annotations may name classes in it."""
    return sys._getframe(2).f_locals  # noqa: SLF001 - the documented way, though marked private


class ActivityOptions(msgspec.Struct, frozen=True):
    """How an activity is run.

    Attributes:
        timeout: Bound of one attempt; None: no bound.
        total_timeout: Bound of all attempts and the back-offs between them; None: no bound.
        heartbeat_timeout: How long an attempt may go without a heartbeat; None: for ever.
        retry: When and how often a failed attempt is repeated; None: the app's policy.
        transactional: Its SQL by `romancy.connection` commits together with its result.
    """

    timeout: timedelta | None = None
    total_timeout: timedelta | None = None
    heartbeat_timeout: timedelta | None = None
    retry: RetryPolicy | None = None
    transactional: bool = False


def _as_timedelta(value: timedelta | float | None, what: str) -> timedelta | None:
    if value is None:
        return None
    delta = value if isinstance(value, timedelta) else timedelta(seconds=value)
    if delta <= timedelta(0):
        msg = f"{what} must be positive, not {value!r}"
        raise DefinitionError(msg)
    return delta


def _name_of(fn: Callable[..., object], name: str | None) -> str:
    if not inspect.isfunction(fn):
        msg = f"{fn!r} is not a function: decorate a 'def' or 'async def'"
        raise DefinitionError(msg)
    chosen = fn.__name__ if name is None else name
    if not chosen or len(chosen) > _LONGEST_NAME or any(c.isspace() or not c.isprintable() for c in chosen):
        msg = f"{chosen!r} can't name a definition: use 1 to {_LONGEST_NAME} printable characters without spaces"
        raise DefinitionError(msg)
    return chosen


class Activity(Generic[P, R]):
    """A function that does work: any I/O, recorded once it has a result. Made by `activity`."""

    def __init__(
        self,
        fn: Callable[P, Coroutine[object, object, R]] | Callable[P, R],
        name: str,
        signature: Signature,
        options: ActivityOptions,
    ) -> None:
        self.fn = fn
        self.name = name
        self.signature = signature
        self.settings = options
        self.is_async = inspect.iscoroutinefunction(fn)
        self.is_bounded = not (options.timeout is options.total_timeout is options.heartbeat_timeout is None)
        self.undo: Activity[..., object] | None = None
        self.is_armed_early = False
        self._variants: WeakSet[Activity[..., object]] = WeakSet()
        self.arguments_subject = Subject("arguments", "activity", name)
        self.result_subject = Subject("result", "activity", name)
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Describe one call of the activity; await it in a workflow to have it done durably."""
        return ActivityCall(cast("Activity[..., R]", self), args, kwargs)

    def options(
        self,
        *,
        timeout: timedelta | float | None = None,
        total_timeout: timedelta | float | None = None,
        heartbeat_timeout: timedelta | float | None = None,
        retry: RetryPolicy | None = None,
    ) -> Activity[P, R]:
        """Return this activity with other settings; what is not given stays. Durations: timedelta or seconds."""
        changed = Activity[P, R](
            self.fn,
            self.name,
            self.signature,
            ActivityOptions(
                timeout=_as_timedelta(timeout, "timeout") or self.settings.timeout,
                total_timeout=_as_timedelta(total_timeout, "total_timeout") or self.settings.total_timeout,
                heartbeat_timeout=_as_timedelta(heartbeat_timeout, "heartbeat_timeout")
                or self.settings.heartbeat_timeout,
                retry=retry or self.settings.retry,
                transactional=self.settings.transactional,
            ),
        )
        changed.undo = self.undo
        changed.is_armed_early = self.is_armed_early
        if self.undo is None:
            self._variants.add(cast("Activity[..., object]", changed))
        return changed

    @overload
    def compensation(
        self, fn: Callable[Concatenate[R, P], Coroutine[object, object, T]], /
    ) -> Activity[Concatenate[R, P], T]: ...
    @overload
    def compensation(self, fn: Callable[Concatenate[R, P], T], /) -> Activity[Concatenate[R, P], T]: ...
    @overload
    def compensation(
        self,
        fn: None = None,
        /,
        *,
        armed: Literal["attempted"],
        name: str | None = None,
        timeout: timedelta | float | None = None,
        total_timeout: timedelta | float | None = None,
        heartbeat_timeout: timedelta | float | None = None,
        retry: RetryPolicy | None = None,
        transactional: bool = False,
    ) -> _CompensationDecorator[R | None, P]: ...
    @overload
    def compensation(
        self,
        fn: None = None,
        /,
        *,
        armed: Literal["completed"] = "completed",
        name: str | None = None,
        timeout: timedelta | float | None = None,
        total_timeout: timedelta | float | None = None,
        heartbeat_timeout: timedelta | float | None = None,
        retry: RetryPolicy | None = None,
        transactional: bool = False,
    ) -> _CompensationDecorator[R, P]: ...
    def compensation(
        self,
        fn: Callable[..., object] | None = None,
        /,
        *,
        armed: Literal["completed", "attempted"] = "completed",
        name: str | None = None,
        timeout: timedelta | float | None = None,
        total_timeout: timedelta | float | None = None,
        heartbeat_timeout: timedelta | float | None = None,
        retry: RetryPolicy | None = None,
        transactional: bool = False,
    ) -> Any:
        """Register the function that undoes this activity.

        It is an activity of its own, called with the activity's result and then its arguments, when the run (or the
        `saga` block around the call) fails or is cancelled. Compensations run in the reverse order of their arming.

        Args:
            fn: The function, when the decorator is used bare.
            armed: From when on: ``"completed"``, when the activity's result is recorded; ``"attempted"``, when the
                activity is asked for, for calls that may half succeed: then it also runs when the activity failed
                for good or timed out, and its first argument is None where there is no result.
            name: Its name in histories; by default the function's.
            timeout: Bound of one attempt: a timedelta, or seconds. None: no bound.
            total_timeout: Bound of all attempts and the back-offs between them. None: no bound.
            heartbeat_timeout: How long an attempt may go without calling `heartbeat`. None: for ever.
            retry: When and how often a failed attempt is repeated; by default the app's policy.
            transactional: Its SQL by `romancy.connection` commits together with its result; only for ``async def``.

        Raises:
            DefinitionError: The activity has a compensation already, or a setting makes no sense.
        """
        if armed not in {"completed", "attempted"}:
            msg = f"compensation(armed={armed!r}) of activity {self.name!r}: use 'completed' or 'attempted'"
            raise DefinitionError(msg)
        options = ActivityOptions(
            timeout=_as_timedelta(timeout, "timeout"),
            total_timeout=_as_timedelta(total_timeout, "total_timeout"),
            heartbeat_timeout=_as_timedelta(heartbeat_timeout, "heartbeat_timeout"),
            retry=retry,
            transactional=transactional,
        )
        undone = cast("Activity[..., object]", self)
        decorator: _CompensationDecorator[object, ...] = _CompensationDecorator(
            undone, name, options, is_early=armed == "attempted"
        )
        return decorator if fn is None else decorator.register(fn, _callers_locals())

    def undone_by(self, undo: Activity[..., object], *, is_early: bool) -> None:
        """Attach a compensation; variants that `options` has made before get it too."""
        self.undo = undo
        self.is_armed_early = is_early
        for variant in list(self._variants):
            if variant.undo is None:
                variant.undone_by(undo, is_early=is_early)
        self._variants.clear()

    def __repr__(self) -> str:
        return f"<activity {self.name}>"


class Workflow(Generic[P, R]):
    """A function that orchestrates: deterministic, replayed. Made by `workflow`."""

    def __init__(
        self, fn: Callable[P, Coroutine[object, object, R]], name: str, version: str, signature: Signature
    ) -> None:
        self.fn = fn
        self.name = name
        self.version = version
        self.signature = signature
        self.arguments_subject = Subject("arguments", "workflow", name)
        self.result_subject = Subject("result", "workflow", name)
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Describe one run of the workflow, for `App.start`, `App.run` or `recur`."""
        return WorkflowCall(cast("Workflow[..., R]", self), args, kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name} version {self.version}>"


def _activity(
    fn: Callable[..., object], name: str | None, options: ActivityOptions, namespace: Mapping[str, object]
) -> Activity[..., object]:
    chosen = _name_of(fn, name)
    if options.transactional and not inspect.iscoroutinefunction(fn):
        msg = f"activity {chosen!r} is transactional and not an 'async def': what it does with connection() is awaited"
        raise DefinitionError(msg)
    definition: Activity[..., object] = Activity(fn, chosen, Signature(fn, namespace=namespace), options)
    registry.add_activity(definition)
    return definition


class _ActivityDecorator:
    """`activity(...)` with settings, waiting for its function."""

    def __init__(self, name: str | None, options: ActivityOptions) -> None:
        self._name = name
        self._options = options

    @overload
    def __call__(self, fn: Callable[P, Coroutine[object, object, R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Activity[P, R]: ...
    def __call__(self, fn: Callable[..., object], /) -> Any:
        return _activity(fn, self._name, self._options, _callers_locals())


class _CompensationDecorator(Generic[R, P]):
    """`compensation(...)` with settings, waiting for its function."""

    def __init__(
        self, undone: Activity[..., object], name: str | None, options: ActivityOptions, *, is_early: bool
    ) -> None:
        self._undone = undone
        self._name = name
        self._options = options
        self._is_early = is_early

    @overload
    def __call__(
        self, fn: Callable[Concatenate[R, P], Coroutine[object, object, T]], /
    ) -> Activity[Concatenate[R, P], T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[R, P], T], /) -> Activity[Concatenate[R, P], T]: ...
    def __call__(self, fn: Callable[..., object], /) -> Any:
        return self.register(fn, _callers_locals())

    def register(self, fn: Callable[..., object], namespace: Mapping[str, object]) -> Activity[..., object]:
        """Make an activity of the function, and attach it."""
        undone = self._undone
        if undone.undo is not None:  # before the new activity takes its name
            msg = f"activity {undone.name!r} has a compensation already: {undone.undo.name!r}"
            raise DefinitionError(msg)
        undo = _activity(fn, self._name, self._options, namespace)
        undone.undone_by(undo, is_early=self._is_early)
        return undo


@overload
def activity(fn: Callable[P, Coroutine[object, object, R]], /) -> Activity[P, R]: ...
@overload
def activity(fn: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    timeout: timedelta | float | None = None,
    total_timeout: timedelta | float | None = None,
    heartbeat_timeout: timedelta | float | None = None,
    retry: RetryPolicy | None = None,
    transactional: bool = False,
) -> _ActivityDecorator: ...
def activity(
    fn: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: timedelta | float | None = None,
    total_timeout: timedelta | float | None = None,
    heartbeat_timeout: timedelta | float | None = None,
    retry: RetryPolicy | None = None,
    transactional: bool = False,
) -> Any:
    """Declare a function as an activity: ``async def``, or ``def``, which runs in a thread.

    A thread can't be stopped: a ``def`` that is timed out or cancelled goes on until it next calls `heartbeat`, or to
    its end, and may overlap its next attempt.

    Args:
        fn: The function, when the decorator is used bare.
        name: Its name in histories; by default the function's. Unique in the process.
        timeout: Bound of one attempt: a timedelta, or seconds. None: no bound.
        total_timeout: Bound of all attempts and the back-offs between them. None: no bound.
        heartbeat_timeout: How long an attempt may go without calling `heartbeat`, from its start on. None: for ever.
        retry: When and how often a failed attempt is repeated; by default the app's policy.
        transactional: What it does to the app's database by `romancy.connection` commits together with its result,
            exactly once. Only for ``async def``.

    Raises:
        DefinitionError: The name is taken by a function elsewhere, or a setting makes no sense.
    """
    options = ActivityOptions(
        timeout=_as_timedelta(timeout, "timeout"),
        total_timeout=_as_timedelta(total_timeout, "total_timeout"),
        heartbeat_timeout=_as_timedelta(heartbeat_timeout, "heartbeat_timeout"),
        retry=retry,
        transactional=transactional,
    )
    if fn is None:
        return _ActivityDecorator(name, options)
    return _activity(fn, name, options, _callers_locals())


def _checked_version(version: str, workflow: str) -> str:
    given = cast("object", version)
    is_text = isinstance(given, str)
    if not is_text or not 0 < len(version) <= _LONGEST_NAME or any(c.isspace() or not c.isprintable() for c in version):
        msg = (
            f"{version!r} can't be a version of workflow {workflow!r}: use a string of 1 to {_LONGEST_NAME} printable "
            'characters without spaces, such as "2"'
        )
        raise DefinitionError(msg)
    return version


def _workflow(
    fn: Callable[P, Coroutine[object, object, R]],
    name: str | None,
    version: str,
    namespace: Mapping[str, object],
) -> Workflow[P, R]:
    chosen = _name_of(fn, name)
    if not inspect.iscoroutinefunction(fn):
        msg = f"workflow {chosen!r} is not an 'async def': only a coroutine function can wait durably"
        raise DefinitionError(msg)
    definition = Workflow(fn, chosen, _checked_version(version, chosen), Signature(fn, namespace=namespace))
    registry.add_workflow(cast("Workflow[..., object]", definition))
    return definition


class _WorkflowDecorator:
    """`workflow(...)` with settings, waiting for its function."""

    def __init__(self, name: str | None, version: str) -> None:
        self._name = name
        self._version = version

    def __call__(self, fn: Callable[P, Coroutine[object, object, R]], /) -> Workflow[P, R]:
        return _workflow(fn, self._name, self._version, _callers_locals())


@overload
def workflow(fn: Callable[P, Coroutine[object, object, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(*, name: str | None = None, version: str = "1") -> _WorkflowDecorator: ...
def workflow(
    fn: Callable[P, Coroutine[object, object, R]] | None = None,
    /,
    *,
    name: str | None = None,
    version: str = "1",
) -> Workflow[P, R] | _WorkflowDecorator:
    """Declare an ``async def`` as a workflow.

    Args:
        fn: The function, when the decorator is used bare.
        name: Its name in the database; by default the function's.
        version: Several versions of a name may be declared side by side. A run stays on the version that it was
            started with; `recur` moves to the newest in natural order: ``"10"`` is newer than ``"9"``.

    Raises:
        DefinitionError: Not an ``async def``, no version can be called so, or name and version are taken by a
            function elsewhere.
    """
    if fn is None:
        return _WorkflowDecorator(name, version)
    return _workflow(fn, name, version, _callers_locals())
