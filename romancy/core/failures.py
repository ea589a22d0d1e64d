"""What remains of an exception when it is recorded, and how it is raised again elsewhere."""

from __future__ import annotations

import importlib
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, Final, cast

import msgspec

from romancy.errors import (
    ActivityFailedError,
    ActivityTimedOutError,
    ChildWorkflowFailedError,
    CodecError,
    CompensationError,
    RetryAfter,
    RomancyError,
    WorkflowFailedError,
    page_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TEXT_LIMIT: Final = 16_384
"""The most characters that a recorded message, and a recorded traceback, has."""

VALUES_LIMIT: Final = 65_536
"""The most bytes that an exception's recorded args, and its recorded attributes, take as JSON."""

FAILURE_LIMIT: Final = 1_048_576
"""The most bytes that an encoded failure takes, unless the caller says otherwise."""

_DEPTH_LIMIT = 10  # of causes and of groups within groups, as recorded
_REBUILT_DEPTH_LIMIT = 20  # likewise, as rebuilt: a failure may hold one that was recorded before
_COUNT_LIMIT = 64  # failures within one failure
_UNDOING_LIMIT = 200  # failures of undoing that are kept of too many
_NAME_LIMIT = 500
_MARK = "__romancy_failure__"
_CARRIERS = (
    ActivityFailedError,
    ChildWorkflowFailedError,
    WorkflowFailedError,
    CompensationError,
)  # errors with a `failure`


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception as a value.

    Attributes:
        type: The class, as ``module:qualname``.
        message: ``str()`` of the exception, bounded.
        args: What the class was called with, if JSON gives it back equal; else None.
        traceback: Where it was raised, as text, bounded; without its causes.
        cause: What it was raised from, or while handling what (unless suppressed).
        attempts: How often the activity's body was tried.
        details: What it is made of: the members of an exception group, or the failure that an error of
            romancy's carries.
        activity_id: Which activity of the run failed, if one did.
        kind: Of a time-out, which limit was exceeded.
        state: The exception's attributes that JSON gives back equal.
        undoing: How many of the last ``details`` are not its own, but what went wrong while the run was undone.
    """

    type: str
    message: str
    args: tuple[object, ...] | None = None
    traceback: str = ""
    cause: Failure | None = None
    attempts: int = 1
    details: tuple[Failure, ...] = ()
    activity_id: str | None = None
    kind: str | None = None
    state: dict[str, object] | None = None
    undoing: int = 0

    @property
    def undoing_failures(self) -> tuple[Failure, ...]:
        """What went wrong while the run was undone.

        Of type ``romancy.errors:CompensationError``, with the compensation's own failure in the details; and of type
        ``romancy:UnknownOutcome``, for activities that have ended without a result, and may have done their work. Of
        more than fit, the first, and at the end one of type ``romancy:LeftOut`` that says how many are missing.
        """
        return self.details[len(self.details) - self.undoing :]

    @property
    def own_details(self) -> tuple[Failure, ...]:
        """``details`` without what went wrong while the run was undone."""
        return self.details[: len(self.details) - self.undoing]


def with_undoing(failure: Failure, undoing: Iterable[Failure]) -> Failure:
    """Return the failure of a run with what went wrong while the run was undone."""
    added = tuple(undoing)
    if not added:
        return failure
    return msgspec.structs.replace(failure, details=failure.details + added, undoing=failure.undoing + len(added))


def failure_of(exc: BaseException, *, attempts: int = 1, activity_id: str | None = None) -> Failure:
    """Return what is to be recorded of an exception. Never raises, whatever the exception's code does.

    An exception made by `exception_of` is recorded as the failure that it came from, with the tracebacks of
    both places; ``attempts`` and ``activity_id`` are then that failure's, unless given.
    """
    try:
        return _Recorder().record(exc, attempts, activity_id, 0)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - what this function promises
        return Failure(_type_name(type(exc)), _message_of(exc), attempts=attempts, activity_id=activity_id)


def exception_of(failure: Failure) -> Exception:
    """Return the exception that a failure tells of, to be raised here; always the same for a failure.

    It is of its own class, if that can be imported, is an `Exception` that can pass through a coroutine,
    takes the recorded args and then has the recorded message; recorded attributes are set again. Else it is
    an `ActivityFailedError` that tells type, message and traceback, or, with ``kind``, an
    `ActivityTimedOutError`.

    ``__cause__`` is made in the same way, and `recorded_failure` of the exception is ``failure``. (Every
    exception has room for that: ``__slots__`` don't take ``__dict__`` away from one.)
    """
    return _exception_of(failure, 0)


def recorded_failure(exc: BaseException) -> Failure | None:
    """Return the failure that `exception_of` made ``exc`` from; None for any other exception."""
    attributes: object = getattr(exc, "__dict__", None)
    found = cast("dict[str, object]", attributes).get(_MARK) if isinstance(attributes, dict) else None
    return found if isinstance(found, Failure) else None


def encode_failure(failure: Failure, *, limit: int = FAILURE_LIMIT) -> bytes:
    """Return a failure encoded. What can't be encoded, or does not fit in ``limit`` bytes, is left out.

    Left out are first most of the details' texts, then causes and details but the first of what went wrong while the
    run was undone, then those, args and attributes, then most of the texts. Never raises.
    """
    for reduced in _reductions(failure):
        try:
            data = _ENCODER.encode(reduced)
        except Exception:  # noqa: BLE001, S112 - a failure may have been made by hand, of anything
            continue
        if len(data) <= limit:
            return data
    return _ENCODER.encode(Failure("builtins:Exception", "what failed can't be told: it is too large"))


def decode_failure(data: bytes) -> Failure:
    """Return a failure decoded.

    Raises:
        CodecError: This is not an encoded failure.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"a recorded failure can't be read: {error}") from error


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Failure)


def _reductions(failure: Failure) -> Iterator[Failure]:
    yield failure
    yield msgspec.structs.replace(failure, details=tuple(map(_brief, failure.details)))
    yield _abridged(failure)
    failure = msgspec.structs.replace(failure, cause=None, details=(), undoing=0)
    yield failure
    failure = msgspec.structs.replace(failure, args=None, state=None)
    yield failure
    yield msgspec.structs.replace(
        failure,
        type=_bounded(str(failure.type), _NAME_LIMIT),
        message=_bounded(str(failure.message), _NAME_LIMIT),
        traceback=_bounded(str(failure.traceback), 4 * _NAME_LIMIT),
    )


def _abridged(failure: Failure) -> Failure:
    """Return a failure with the first of what went wrong while the run was undone, and how much more that was."""
    kept = tuple(map(_brief, failure.undoing_failures[:_UNDOING_LIMIT]))
    left = failure.undoing - len(kept)
    if left:
        message = f"{left} more failures while the run was undone are left out: they are in its history"
        kept = (*kept, Failure("romancy:LeftOut", message))
    return msgspec.structs.replace(failure, cause=None, details=kept, undoing=len(kept))


def _brief(failure: Failure) -> Failure:
    """Return what must be known of a failure: which one it was, of which activity."""
    message = _bounded(str(failure.message), _NAME_LIMIT)
    return Failure(failure.type, message, attempts=failure.attempts, activity_id=failure.activity_id)


class _Recorder:
    """One pass over an exception, its causes and members; ``_open`` breaks cycles, ``_left`` bounds them."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._left = _COUNT_LIMIT

    def record(self, exc: BaseException, attempts: int, activity_id: str | None, depth: int) -> Failure:
        self._left -= 1
        self._open.add(id(exc))
        cause = next(iter(self._record_all(_causes_of(exc), depth)), None)
        recorded = recorded_failure(exc)
        if recorded is None:
            failure = self._record_new(exc, attempts, activity_id, depth, cause)
        else:
            failure = msgspec.structs.replace(
                recorded,
                traceback=_both(recorded.traceback, _traceback_of(exc, recorded.message)),
                cause=cause or recorded.cause,
                attempts=attempts if attempts > 1 else recorded.attempts,
                activity_id=activity_id or recorded.activity_id,
            )
        self._open.discard(id(exc))
        return failure

    def _record_new(
        self, exc: BaseException, attempts: int, activity_id: str | None, depth: int, cause: Failure | None
    ) -> Failure:
        message = _message_of(exc)
        args, state = _values_of(exc)
        return Failure(
            type=_type_name(type(exc)),
            message=message,
            args=args,
            traceback=_traceback_of(exc, message),
            cause=cause,
            attempts=exc.attempts if isinstance(exc, ActivityFailedError) else attempts,
            details=self._record_all(_members_of(exc), depth),
            activity_id=exc.activity_id if isinstance(exc, CompensationError) else activity_id,
            kind=exc.kind if isinstance(exc, ActivityTimedOutError) else None,
            state=state,
        )

    def _record_all(self, others: Iterable[BaseException | Failure], depth: int) -> tuple[Failure, ...]:
        found: list[Failure] = []
        for other in others:
            if isinstance(other, Failure):
                found.append(other)
            elif depth < _DEPTH_LIMIT and self._left > 0 and id(other) not in self._open:
                found.append(self.record(other, 1, None, depth + 1))
        return tuple(found)


def _causes_of(exc: BaseException) -> tuple[BaseException, ...]:
    cause = exc.__cause__
    if cause is None and not exc.__suppress_context__:
        cause = exc.__context__
    return () if cause is None else (cause,)


def _members_of(exc: BaseException) -> tuple[BaseException | Failure, ...]:
    if isinstance(exc, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", exc).exceptions
    if isinstance(exc, _CARRIERS) and exc.failure is not None:
        return (exc.failure,)
    return ()


def _type_name(cls: type[BaseException]) -> str:
    name = f"{cls.__module__}:{cls.__qualname__}"
    return _bounded(name, _NAME_LIMIT)


def _message_of(exc: BaseException) -> str:
    try:
        return _bounded(str(exc))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - an exception's own code may raise anything
        return f"<str() of this {type(exc).__name__} failed>"


def _values_of(exc: BaseException) -> tuple[tuple[object, ...] | None, dict[str, object] | None]:
    """Return what `copy` would give the class, args and attributes, where JSON gives it back equal."""
    if isinstance(exc, BaseExceptionGroup):
        return (_bounded(exc.message),), None  # its members are in `details`
    try:
        cls, args, *rest = cast("tuple[object, ...]", exc.__reduce__())
        if cls is not type(exc):
            args, rest = exc.args, []
        recorded_args = _through_json(list(cast("tuple[object, ...]", args)))
        state: dict[str, object] = {}
        for name, value in _attributes_of(exc, cast("Mapping[str, object]", (rest and rest[0]) or {})).items():
            # Ours, and JSON would not give it back: a number of seconds says the same.
            if isinstance(exc, RetryAfter) and isinstance(value, timedelta):
                kept = _through_json([value.total_seconds()])
            else:
                kept = _through_json([value])
            if kept is not None:
                state[name] = kept[0]
        if _through_json([state]) is None:
            state = {}
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - likewise
        return None, None
    return None if recorded_args is None else tuple(recorded_args), state or None


def _through_json(values: list[object]) -> list[object] | None:
    try:
        data = _ENCODER.encode(values)
        decoded = cast("list[object]", msgspec.json.decode(data))
        return decoded if len(data) <= VALUES_LIMIT and decoded == values else None
    except Exception:  # noqa: BLE001 - what JSON can't hold is left out
        return None


def _traceback_of(exc: BaseException, message: str) -> str:
    """Return the traceback as the interpreter prints it, without the causes: they are recorded themselves."""
    if exc.__traceback__ is None:
        return ""
    try:
        frames = "".join(traceback.format_tb(exc.__traceback__))
    except Exception:  # noqa: BLE001 - source lines may be unreadable in any way
        frames = "  (can't be shown)\n"
    cls = type(exc)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    shown = "".join(f"\n{note}" for note in _notes_of(exc))
    return _bounded(f"Traceback (most recent call last):\n{frames}{name}: {message}{shown}")


def _attributes_of(exc: BaseException, given: Mapping[str, object]) -> Mapping[str, object]:
    """Return an exception's attributes without what its class says already."""
    if not isinstance(exc, RomancyError):
        return given
    notes = {"__notes__": own} if (own := _notes_of(exc)) else {}
    return {name: value for name, value in given.items() if name != "__notes__"} | notes


def _notes_of(exc: BaseException) -> list[str]:
    """Return an exception's notes, without the one that leads to the page of an error of ours."""
    notes: object = getattr(exc, "__notes__", ())
    link = f"see {page_of(type(exc))}"
    return [note for note in cast("list[object]", notes) if isinstance(note, str) and note != link]


def _both(first: str, second: str) -> str:
    return _bounded(f"{first}\n\nRaised again:\n\n{second}") if first and second else first or second


def _bounded(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return head and tail of a text that is too long; always plain text that can be encoded."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()


def _exception_of(failure: Failure, depth: int) -> Exception:
    own = failure.own_details
    inner = own[0] if own else failure
    exc: Exception | None = None
    if failure.kind is not None:
        exc = ActivityTimedOutError(failure.message, inner, failure.attempts, failure.kind)
    else:
        try:
            exc = _rebuilt(failure, depth)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001, S110 - a constructor may raise anything; the failure is then told instead
            pass
    if exc is None:
        exc = ActivityFailedError(_told(failure), failure, failure.attempts)
    vars(exc)[_MARK] = failure
    if failure.cause is not None and depth < _REBUILT_DEPTH_LIMIT:
        exc.__cause__ = _exception_of(failure.cause, depth + 1)
    return exc


def _rebuilt(failure: Failure, depth: int) -> Exception | None:
    """Return the exception in its own class; None, or any error, if that can't be done faithfully."""
    cls = _class_of(failure.type)
    if cls is None or failure.args is None:
        return None
    exc = _constructed(cls, failure, failure.args, depth)
    if exc is None or type(exc) is not cls:
        return None
    vars(exc).update(failure.state or {})
    return exc if _message_of(exc) == failure.message else None


def _constructed(cls: type[Exception], failure: Failure, args: tuple[object, ...], depth: int) -> Exception | None:
    if issubclass(cls, ExceptionGroup):
        if depth >= _REBUILT_DEPTH_LIMIT:
            return None
        members = [_exception_of(member, depth + 1) for member in failure.own_details]
        return cast("type[ExceptionGroup[Exception]]", cls)(str(args[0]), members)
    if issubclass(cls, RomancyError) and getattr(cls.__init__, "__module__", None) == RomancyError.__module__:
        exc = cls.__new__(cls)  # one of ours, or made like it: its args are the message alone
        exc.args = args
        vars(exc).update(_own_state(cls, failure))
        return exc
    return cls(*args)


def _own_state(cls: type[RomancyError], failure: Failure) -> dict[str, object]:
    """Return the attributes of an error of ours that are fields of a failure."""
    state: dict[str, object] = {}
    if issubclass(cls, _CARRIERS):
        own = failure.own_details
        state["failure"] = own[0] if own else failure
    if issubclass(cls, ActivityFailedError):
        state["attempts"] = failure.attempts
    if issubclass(cls, CompensationError):
        state["activity_id"] = failure.activity_id or ""
    return state


def _class_of(name: str) -> type[Exception] | None:
    module, _, qualname = name.partition(":")
    if "<" in qualname:
        return None  # `<locals>`, `<lambda>`
    found: object = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    # Raised in a coroutine, these two mean something else.
    return None if issubclass(found, (StopIteration, StopAsyncIteration)) else found


def _told(failure: Failure) -> str:
    who = f"activity {failure.activity_id!r} failed" if failure.activity_id else "failed"
    often = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
    shown = f"\n\n{failure.traceback}" if failure.traceback else ""
    return f"{who}{often} with {failure.type}: {failure.message}{shown}"
