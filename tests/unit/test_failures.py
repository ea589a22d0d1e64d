from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import timedelta
from typing import NoReturn, Self, cast

import msgspec
import pytest

from romancy import errors
from romancy.core.failures import (
    FAILURE_LIMIT,
    TEXT_LIMIT,
    Failure,
    decode_failure,
    encode_failure,
    exception_of,
    failure_of,
    recorded_failure,
    with_undoing,
)
from romancy.errors import (
    ActivityFailedError,
    ActivityTimedOutError,
    CodecError,
    CompensationError,
    InstanceNotFoundError,
    NondeterminismError,
    NonRetryableError,
    RetryAfter,
    WorkflowBlockedError,
    WorkflowFailedError,
)


class Declined(Exception):
    """An author's own exception, with state."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Outer:
    class Inner(Exception):
        pass


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


class Copied(Exception):
    """Made for being copied: it says itself what it is called with."""

    def __init__(self, *, code: int = 0) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self) -> tuple[type[Copied], tuple[()], dict[str, object]]:
        return type(self), (), {"code": self.code}

    def __str__(self) -> str:
        return f"code {self.code}"


class Slotted(Exception):
    __slots__ = ("extra",)


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Counting(Exception):
    """Its message is different in every instance."""

    made = 0

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        Counting.made += 1
        self.number = Counting.made

    def __str__(self) -> str:
        return f"number {self.number}"

    def __reduce__(self) -> tuple[type[Counting], tuple[object, ...]]:
        return type(self), self.args


class Exploding(Exception):
    def __init__(self, fuse: str = "") -> None:
        super().__init__(fuse)
        if fuse == "lit" and Exploding.armed:
            raise SystemExit("boom")

    armed = False


class Shifting(Exception):
    """Its constructor gives something else."""

    def __new__(cls, *args: object) -> Self:
        return super().__new__(Shifted if cls is Shifting else cls)  # type: ignore[return-value] # pyright: ignore[reportArgumentType]


class Shifted(Shifting):
    pass


class Stop(StopIteration):
    pass


class Quit(BaseException):
    pass


class Hostile(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __reduce__(self) -> NoReturn:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


class Deadly(Exception):
    def __str__(self) -> str:
        raise asyncio.CancelledError

    def __reduce__(self) -> NoReturn:
        raise SystemExit


class UnfriendlyGroup(ExceptionGroup[Exception]):
    def __new__(cls, problems: list[Exception]) -> Self:  # pyright: ignore[reportInconsistentConstructor]
        return super().__new__(cls, "unfriendly", problems)


def raised(exc: BaseException, cause: BaseException | None = None) -> BaseException:
    if cause is not None:
        exc.__cause__ = cause
    with pytest.raises(type(exc)) as caught:
        raise exc
    return caught.value


def again(exc: BaseException) -> Exception:
    """Return ``exc`` as another process would raise it."""
    return exception_of(decode_failure(encode_failure(failure_of(raised(exc)))))


def test_failure_of_tells_type_message_args_and_traceback() -> None:
    failure = failure_of(raised(ValueError("odd", 3)), attempts=4, activity_id="3:charge")
    assert failure.type == "builtins:ValueError"
    assert failure.message == "('odd', 3)"
    assert failure.args == ("odd", 3)
    assert failure.attempts == 4
    assert failure.activity_id == "3:charge"
    assert failure.traceback.startswith("Traceback (most recent call last):\n  File ")
    assert "in raised" in failure.traceback
    assert failure.traceback.endswith("ValueError: ('odd', 3)")


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("odd"),
        ValueError(),
        KeyError("gone"),
        LookupError("a", 1, None, [1.5, {"b": True}]),
        TimeoutError(),
        FileNotFoundError(2, "No such file or directory", "a.txt"),
        json.JSONDecodeError("Expecting value", "doc", 1),
        Declined("no money"),
        Outer.Inner("within"),
        Slotted("small"),
        Frozen("cold"),
        InstanceNotFoundError("no instance 'a'"),
        NonRetryableError("never"),
    ],
)
def test_exception_of_gives_the_exceptions_own_class(exc: Exception) -> None:
    found = again(exc)
    assert type(found) is type(exc)
    assert found.args == exc.args
    assert str(found) == str(exc)
    with pytest.raises(type(exc)):
        raise found


def test_exception_of_sets_attributes_again() -> None:
    found = again(Declined("no money", code=5))
    assert isinstance(found, Declined)
    assert found.code == 5


def test_exception_of_leaves_attributes_that_json_can_not_hold_to_the_constructor() -> None:
    exc = Declined("no money")
    exc.code = object()  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    found = again(exc)
    assert isinstance(found, Declined)
    assert found.code == 0


def test_exception_of_keeps_notes() -> None:
    exc = ValueError("odd")
    exc.add_note("while counting")
    failure = failure_of(raised(exc))
    assert failure.traceback.endswith("ValueError: odd\nwhile counting")
    assert exception_of(failure).__notes__ == ["while counting"]


def test_exception_of_follows_what_a_class_says_of_its_copies() -> None:
    found = again(Copied(code=7))
    assert isinstance(found, Copied)
    assert found.code == 7


class Local:
    @staticmethod
    def of_a_function() -> Exception:
        class Hidden(Exception):
            pass

        return Hidden("hidden")


@pytest.mark.parametrize(
    "exc",
    [
        Local.of_a_function(),
        KeywordOnly(code=1),
        ValueError(object()),
        ValueError((1, 2)),
        ValueError(b"raw"),
        ValueError(float("nan")),
        ValueError("\ud800"),
        Counting("x"),
        Stop("x"),
        StopAsyncIteration("x"),
        Hostile("x"),
        Deadly("x"),
        Quit("x"),
        KeyboardInterrupt("x"),
        SystemExit(3),
        GeneratorExit("x"),
        asyncio.CancelledError("x"),
        UnfriendlyGroup([ValueError("x")]),  # pyright: ignore[reportCallIssue]
        BaseExceptionGroup("x", [KeyboardInterrupt()]),
    ],
)
def test_exception_of_tells_what_it_cannot_rebuild(exc: BaseException) -> None:
    failure = decode_failure(encode_failure(failure_of(raised(exc), attempts=3, activity_id="1:pay")))
    found = exception_of(failure)
    assert type(found) is ActivityFailedError
    assert found.failure == failure
    assert found.attempts == 3
    text = str(found)
    assert text.startswith(f"activity '1:pay' failed after 3 attempts with {type(exc).__module__}:")
    assert type(exc).__qualname__ in text
    assert failure.message in text
    assert "Traceback (most recent call last)" in text


def test_exception_of_refuses_a_constructor_that_gives_another_class() -> None:
    failure = msgspec.structs.replace(failure_of(Shifted("x")), type=f"{__name__}:Shifting")
    assert type(exception_of(failure)) is ActivityFailedError


def test_exception_of_survives_a_constructor_that_raises_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = failure_of(Exploding("lit"))
    monkeypatch.setattr(Exploding, "armed", True)
    assert type(exception_of(failure)) is ActivityFailedError


@pytest.mark.parametrize(
    "name",
    [
        "no_such_module_at_all:Error",
        "builtins:NoSuchError",
        "builtins:int",
        "builtins:print",
        "builtins:KeyboardInterrupt",
        "builtins:BaseException",
        "builtins:",
        "builtins",
        "",
        ":",
        "..:x",
        "\x00:x",
    ],
)
def test_exception_of_survives_any_type_name(name: str) -> None:
    found = exception_of(Failure(name, "message", args=("message",)))
    assert type(found) is ActivityFailedError
    assert "message" in str(found)


def test_exception_of_is_the_same_in_another_process() -> None:
    failure = failure_of(raised(FileNotFoundError(2, "gone", "a.txt"), ValueError("first")))
    program = (
        "import sys; from romancy.core.failures import *; "
        "e = exception_of(decode_failure(sys.stdin.buffer.read())); print(repr(e), repr(e.__cause__))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], input=encode_failure(failure), capture_output=True, check=True
    ).stdout.decode()
    found = exception_of(failure)
    assert printed.strip() == f"{found!r} {found.__cause__!r}"


def test_recorded_failure_gives_the_failure_back() -> None:
    for exc in (Declined("no"), Slotted("no"), Frozen("no"), Hostile("no"), ActivityTimedOutError("no")):
        failure = failure_of(raised(exc))
        assert recorded_failure(exception_of(failure)) is failure
        assert recorded_failure(exc) is None


def test_failure_of_a_rebuilt_exception_is_the_failure_with_both_tracebacks() -> None:
    failure = failure_of(raised(Declined("no", 5), ValueError("first")), attempts=3, activity_id="1:pay")
    found = failure_of(raised(exception_of(failure)))
    assert msgspec.structs.replace(found, traceback="", cause=None) == msgspec.structs.replace(
        failure, traceback="", cause=None
    )
    assert found.traceback.startswith(failure.traceback)
    assert "Raised again:" in found.traceback
    assert found.cause == failure.cause
    unknown = failure_of(KeywordOnly(code=1), activity_id="2:pay")
    assert failure_of(exception_of(unknown)) == unknown
    assert failure_of(exception_of(unknown), attempts=2, activity_id="9:x").activity_id == "9:x"


def test_exception_of_a_time_out_tells_its_kind() -> None:
    failure = Failure("romancy.errors:ActivityTimedOutError", "too slow", attempts=3, kind="total_timeout")
    found = exception_of(decode_failure(encode_failure(failure)))
    assert type(found) is ActivityTimedOutError
    assert str(found) == "too slow"
    assert (found.kind, found.attempts, found.failure) == ("total_timeout", 3, failure)


INNER = Failure("builtins:ValueError", "odd", args=("odd",))


@pytest.mark.parametrize(
    "exc",
    [
        ActivityTimedOutError("slow", INNER, 4, "total_timeout"),
        ActivityFailedError("failed", INNER, 4),
        WorkflowFailedError("failed", INNER),
        errors.WorkflowCancelledError("cancelled", INNER),
        WorkflowBlockedError("blocked", "no code", "stack"),
        CompensationError("undone", "3:undo", INNER),
        NondeterminismError("other", "1:a", "recorded", None, "a.py:1"),
        RetryAfter(2.5, "later"),
        CodecError("bad"),
        errors.SessionLostError("lost"),
    ],
)
def test_exception_of_gives_our_own_errors_back_with_their_state(exc: Exception) -> None:
    found = again(exc)
    assert type(found) is type(exc)
    assert str(found) == str(exc)
    assert found.args == exc.args
    assert {name: value for name, value in vars(found).items() if name != "__romancy_failure__"} == vars(exc)


def test_exception_of_gives_a_delay_back_in_seconds() -> None:
    found = again(RetryAfter(timedelta(minutes=1), "later"))
    assert isinstance(found, RetryAfter)
    assert found.delay == 60.0


class Busy(RetryAfter):
    pass


def test_exception_of_gives_subclasses_of_our_errors_back() -> None:
    found = again(Busy(5, "busy"))
    assert type(found) is Busy
    assert found.delay == 5


def test_failure_of_follows_causes_and_contexts() -> None:
    first, second, third = ValueError("first"), KeyError("second"), Declined("third", 3)
    second.__context__ = first
    failure = failure_of(raised(third, second))
    assert failure.cause is not None
    assert failure.cause.type == "builtins:KeyError"
    assert failure.cause.cause is not None
    assert failure.cause.cause.message == "first"
    found = exception_of(failure)
    assert isinstance(found.__cause__, KeyError)
    assert isinstance(found.__cause__.__cause__, ValueError)
    assert recorded_failure(found.__cause__) == failure.cause


def test_failure_of_leaves_out_a_suppressed_context() -> None:
    exc = ValueError("odd")
    exc.__context__ = KeyError("gone")
    exc.__suppress_context__ = True
    assert failure_of(exc).cause is None


def test_failure_of_ends_with_cycles() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    failure = failure_of(first)
    assert failure.cause is not None
    assert failure.cause.cause is None


def test_failure_of_bounds_long_chains_and_wide_groups() -> None:
    exc: Exception = ValueError("first")
    for number in range(100):
        following = ExceptionGroup("several", [ValueError(str(n)) for n in range(number + 1)])
        following.__cause__ = exc
        exc = following
    failure = failure_of(exc)
    assert len(encode_failure(failure)) < FAILURE_LIMIT
    assert type(exception_of(failure)) in (ExceptionGroup, ActivityFailedError)


def test_exception_of_a_group_holds_its_members() -> None:
    inner = ExceptionGroup("inner", [Declined("no", 5), KeywordOnly(code=1)])
    found = again(ExceptionGroup("outer", [ValueError("odd"), inner]))
    assert isinstance(found, ExceptionGroup)
    assert found.message == "outer"
    odd, group = cast("ExceptionGroup[Exception]", found).exceptions
    assert isinstance(odd, ValueError)
    assert isinstance(group, ExceptionGroup)
    declined, other = cast("ExceptionGroup[Exception]", group).exceptions
    assert isinstance(declined, Declined)
    assert declined.code == 5
    assert isinstance(other, ActivityFailedError)


def test_failure_of_bounds_message_and_traceback_and_keeps_the_type() -> None:
    message = "head" + "x" * 50_000 + "tail"
    failure = failure_of(raised(ValueError(message)))
    assert len(failure.message) < TEXT_LIMIT + 100
    assert failure.message.startswith("headx")
    assert failure.message.endswith("xtail")
    assert len(failure.traceback) < TEXT_LIMIT + 100
    assert failure.traceback.startswith("Traceback")
    assert str(exception_of(failure)) == message


def test_failure_of_leaves_out_args_that_are_too_large() -> None:
    failure = failure_of(ValueError("x" * 10_000_000))
    assert failure.args is None
    assert len(encode_failure(failure)) < 50_000
    assert type(exception_of(failure)) is ActivityFailedError


def test_failure_of_bounds_a_deep_traceback() -> None:
    def ping(n: int) -> None:
        pong(n)

    def pong(n: int) -> None:
        ping(n)

    with pytest.raises(RecursionError) as caught:
        ping(1)
    failure = failure_of(caught.value)
    assert len(failure.traceback) < TEXT_LIMIT + 100
    assert failure.traceback.endswith("maximum recursion depth exceeded")
    assert type(exception_of(failure)) is RecursionError


def test_failure_of_can_always_be_encoded() -> None:
    for exc in (Hostile(Hostile()), Deadly(), ValueError("\ud800"), Declined("a", code=2**80)):
        failure = failure_of(raised(exc))
        assert decode_failure(encode_failure(failure)) == failure


def test_encode_failure_leaves_out_what_does_not_fit() -> None:
    cause = Failure("builtins:ValueError", "x" * 1000)
    failure = Failure("builtins:KeyError", "y" * 300, args=("y" * 300,), traceback="z" * 1500, cause=cause)
    full = len(encode_failure(failure))
    assert decode_failure(encode_failure(failure, limit=full - 1)) == msgspec.structs.replace(failure, cause=None)
    assert decode_failure(encode_failure(failure, limit=2000)).args is None
    assert decode_failure(encode_failure(failure, limit=10)).type == "builtins:Exception"


def test_encode_failure_tells_how_much_of_undoing_it_leaves_out() -> None:
    undoing = [Failure("a:Undoing", "x" * 1000, traceback="z" * 1000, activity_id=f"undo.{n}") for n in range(3000)]
    failure = with_undoing(Failure("builtins:KeyError", "y", details=(Failure("a:Own", "own"),)), undoing)
    kept = decode_failure(encode_failure(failure))
    *first, last = kept.undoing_failures
    assert [each.activity_id for each in first] == [f"undo.{n}" for n in range(200)]
    assert (last.type, last.message[:10]) == ("romancy:LeftOut", "2800 more ")
    assert (kept.own_details, kept.message) == ((), "y")


def test_encode_failure_leaves_out_what_can_not_be_encoded() -> None:
    by_hand = Failure("builtins:KeyError", "\ud800", args=(object(),), cause=Failure("\ud800", ""))
    assert decode_failure(encode_failure(by_hand)) == Failure("builtins:KeyError", "\\ud800")


def test_encode_failure_writes_no_defaults() -> None:
    assert encode_failure(Failure("a:B", "c")) == b'{"type":"a:B","message":"c"}'


@pytest.mark.parametrize("data", [b"", b"1", b'{"type":1,"message":""}', b"\xff", b'{"type":"\xff","message":""}'])
def test_decode_failure_refuses_what_is_none(data: bytes) -> None:
    with pytest.raises(CodecError, match="recorded failure"):
        decode_failure(data)


def test_exception_of_can_be_set_on_a_future() -> None:
    async def main() -> None:
        for exc in (Stop("x"), Quit("x"), Declined("x")):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.set_exception(again(exc))
            with pytest.raises((ActivityFailedError, Declined)):
                await future

    asyncio.run(main())
