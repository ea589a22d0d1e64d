"""What workflows under test call, and the pieces that a test drives an `Execution` with by hand."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import msgspec

from romancy import Channel, activity, now, workflow
from romancy.core.calls import Call
from romancy.core.codec import JsonCodec
from romancy.core.definitions import Activity, Workflow
from romancy.core.events import (
    ActivityCompleted,
    ActivityFailed,
    Envelope,
    Event,
    EventKind,
    MessageReceived,
)
from romancy.core.failures import encode_failure, failure_of
from romancy.replay.execution import Execution, Turn

CODEC = JsonCodec()
SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND

news = Channel("news", cast("type[Any]", Any))

_activities: dict[str, Activity[..., Any]] = {}
_flows: dict[Callable[..., Any], Workflow[..., Any]] = {}
TRACES: list[list[tuple[Any, ...]]] = [[]]
"""Where `log` writes: the trace of the execution that is being driven is the last."""


def act(name: str, *args: Any) -> Call[Any]:
    """Call an activity of any name, which returns what the plan says."""
    return activity_of(name)(*args)


def activity_of(name: str) -> Activity[..., Any]:
    found = _activities.get(name)
    if found is None:

        async def body(*args: Any) -> Any: ...

        body.__qualname__ = body.__name__ = name
        found = _activities[name] = activity(name=name)(body)
    return found


def undoable(name: str, *args: Any) -> Call[Any]:
    """Call an activity that has a compensation, ``undo_<name>``."""
    definition = activity_of(name)
    if definition.undo is None:

        async def undo(*args: Any) -> Any: ...

        undo.__qualname__ = undo.__name__ = f"undo_{name}"
        definition.compensation(undo)
    return definition(*args)


def attempted(name: str, *args: Any) -> Call[Any]:
    """Call an activity that is armed from its first attempt on."""
    definition = activity_of(name)
    if definition.undo is None:

        async def undo(*args: Any) -> Any: ...

        undo.__qualname__ = undo.__name__ = f"undo_{name}"
        definition.compensation(armed="attempted")(undo)
    return definition(*args)


def log(*what: Any) -> None:
    """Write a line of the trace, with the time of the run."""
    TRACES[-1].append((round((now().timestamp() - T0 / SECOND) * SECOND), *what))


def read_world() -> int:
    """Read what is never the same twice: for side effects, which must not be repeated."""
    World.reading += 1
    return World.reading


class World:
    reading = 0


def define(fn: Callable[..., Any], name: str = "flow") -> Workflow[..., Any]:
    """Make a workflow of a function; another of the same name may exist."""
    if fn not in _flows:
        _flows[fn] = workflow(name=f"{name}-{len(_flows)}")(fn)
    return _flows[fn]


class Outcome(NamedTuple):
    """What an activity does: after how many seconds it ends (None: never), and how."""

    after: float | None
    value: Any = None
    error: BaseException | None = None


class Message(NamedTuple):
    """A message that arrives at a time, in seconds."""

    at: float
    body: Any
    channel: str = "news"


Plan = Callable[[str, str], Outcome]
"""From activity id and name to what the activity does."""


def after(seconds: float = 1) -> Plan:
    """Let every activity end after so many seconds with ``id!``."""
    return lambda activity_id, name: Outcome(seconds, f"{activity_id}!")


def varied(seed: int) -> Plan:
    """Let activities end after 0 to 6 seconds, one in 11 with a failure; all by their id."""

    def plan(activity_id: str, name: str) -> Outcome:
        number = zlib.crc32(f"{seed}/{activity_id}".encode())
        if number % 11 == 0:
            return Outcome(number % 7, error=ValueError(f"{activity_id} failed"))
        return Outcome(number % 7, f"{activity_id}={number % 1000}")

    return plan


def begin(fn: Callable[..., Any], *args: Any, **settings: Any) -> Execution:
    """Return an execution that has not begun, to be driven by hand."""
    flow = define(fn)
    given = flow.signature.bind_encode(CODEC, args, {}, "input")
    return Execution(flow, given, codec=CODEC, instance_id="i", **settings)


def completed(activity_id: str, value: Any = None) -> ActivityCompleted:
    """Return the release of a result."""
    return ActivityCompleted(activity_id, CODEC.encode(value))


def failed(activity_id: str, exc: BaseException) -> ActivityFailed:
    """Return the release of a failure."""
    return ActivityFailed(activity_id, encode_failure(failure_of(exc)))


def message(body: Any, inbox_seq: int = 1, channel: str = "news") -> MessageReceived:
    """Return the release of a message."""
    envelope = Envelope(f"m{inbox_seq}", 0, msgspec.Raw(msgspec.json.encode(body)))
    return MessageReceived(channel, msgspec.json.encode(envelope), inbox_seq)


def events_of(*turns: Turn) -> list[Event]:
    """Return what storage keeps of turns, without a closing."""
    notes = [(turn, note) for turn in turns for note in turn.notes]
    return [
        Event(seq, turn.number, turn.stamp, *note)
        for seq, (turn, note) in enumerate(notes)
        if note.kind < EventKind.RUN_COMPLETED
    ]
