"""A shell in memory around `Execution`: virtual time, scripted activities, history as storage would keep it."""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from romancy.core.commands import CancelActivity, Command, RunActivity
from romancy.core.events import (
    ActivityAnswered,
    ActivityCompleted,
    ActivityFailed,
    ActivityHandedOver,
    Arrival,
    Cancellation,
    CancelRequested,
    Envelope,
    Event,
    EventKind,
    HandOver,
    MessageReceived,
    OutsideAnswer,
    SendOutcome,
    TimerFired,
)
from romancy.core.failures import encode_failure, failure_of
from romancy.core.records import Status
from romancy.core.requests import Send, Unsubscribe
from romancy.replay.execution import Execution, Turn
from romancy.replay.journal import RecordedTurn, release_of

from .scripting import CODEC, SECOND, T0, TRACES, Message, Outcome, Plan, World, after, define


def id_of(command: Command) -> str:
    """What a command is about: an operation, or a subscription."""
    return command.mailbox if isinstance(command, Unsubscribe) else command.activity_id


class DeadlockedError(Exception):
    """Nothing that could wake the run will ever come."""


class Shell:
    """Drive one run to its end, in virtual time, keeping its history as storage would.

    ``evict`` is a probability, or turns after which the run leaves memory and comes back by replay. ``jitter`` lets
    things arrive together that would not, in batches, and stamps differ from arrival. ``outside``: one in so many
    activities is handed over and finished from outside.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *args: Any,
        plan: Plan | None = None,
        messages: Iterable[Message] = (),
        cancel_at: float | None = None,
        grace: float | None = None,
        time_limit: float | None = None,
        send_outcome: SendOutcome = SendOutcome.SENT,
        seed: int = 0,
        evict: float | Iterable[int] = 0.0,
        jitter: bool = False,
        outside: int = 0,
        is_lenient: bool = False,
        turn_limit: int = 5_000,
    ) -> None:
        self.flow = define(fn)
        self.input = self.flow.signature.bind_encode(CODEC, args, {}, "input")
        self.plan = plan or after()
        self.send_outcome = send_outcome
        self.seed = seed
        self.is_lenient = is_lenient
        self.turn_limit = turn_limit
        self.deadline = None if time_limit is None else T0 + round(time_limit * SECOND)
        self.now = T0
        self.events: list[Event] = []
        self.drained = 0
        self.commands: list[tuple[str, str]] = []
        self.trace: list[tuple[Any, ...]] = []
        self.turns: list[Turn] = []
        self.evictions = 0
        self.warnings: list[str] = []
        self.reports: list[dict[str, Any]] = []
        self._unread: dict[int, Arrival] = {}
        self._arrivals: list[tuple[int, int, int, Arrival]] = []
        self._number = 0
        self._evict_at = evict if isinstance(evict, float | int) else frozenset(evict)
        self._random = random.Random(seed)
        self._evictions = random.Random(seed + 1)
        self._jitter = jitter
        self._outside = outside
        for number, message in enumerate(sorted(messages, key=lambda message: message.at), 1):
            body = msgspec.Raw(msgspec.json.encode(message.body))
            envelope = msgspec.json.encode(Envelope(f"m{number}", 0, body))
            self._arrive(T0 + message.at * SECOND, 0, MessageReceived(message.channel, envelope, number))
        if cancel_at is not None:
            wish = "enough" if grace is None else Cancellation("enough", round(grace * SECOND))
            self._arrive(T0 + cancel_at * SECOND, 0, CancelRequested(msgspec.json.encode(wish), 1_000_000))
        self.execution = self._fresh()

    # -- making executions ------------------------------------------------------------------------------

    def _fresh(self) -> Execution:
        return Execution(
            self.flow,
            self.input,
            codec=CODEC,
            execution_id=self.seed,
            instance_id="i",
            is_lenient=self.is_lenient,
            deadline=self.deadline,
        )

    # -- running ----------------------------------------------------------------------------------------

    def _arrive(self, at: float, rank: int, release: Arrival) -> None:
        self._number += 1
        if isinstance(release, MessageReceived | CancelRequested | ActivityAnswered):
            self._unread[release.inbox_seq] = release
        heapq.heappush(self._arrivals, (round(at), rank, self._number, release))

    def run(self) -> Shell:
        """Drive the run until it closes or is blocked."""
        World.reading = 0
        turn = self._activate((), T0)
        while turn.closing is None and turn.blocked is None:
            if self._is_to_be_evicted(turn):
                self.evict()
            turn = self._activate(*self._next_batch())
            if len(self.turns) > self.turn_limit:
                raise AssertionError("too many turns")
        return self

    def _is_to_be_evicted(self, turn: Turn) -> bool:
        if isinstance(self._evict_at, frozenset):
            return turn.number in self._evict_at
        return bool(self._evict_at) and self._evictions.random() < self._evict_at

    def _next_batch(self) -> tuple[list[Arrival], int]:
        deadline = self.execution.timers.next_deadline()
        due = [
            instant for instant in (deadline, self._arrivals[0][0] if self._arrivals else None) if instant is not None
        ]
        if not due:
            raise DeadlockedError(repr(self.execution.loop.tasks))
        self.now = max(self.now, min(due))
        if self._jitter:
            self.now += self._random.choice((0, 0, 0, 1, 700_000, 3 * SECOND))
        batch: list[tuple[int, int, int, Arrival]] = []
        while self._arrivals and self._arrivals[0][0] <= self.now:
            batch.append(heapq.heappop(self._arrivals))
        timers = self.execution.timers.due(self.now)
        batch += [(at, 2, index, TimerFired(timer_id)) for index, (at, timer_id) in enumerate(timers)]
        batch.sort(key=lambda arrival: arrival[:3])
        stamp = self.now
        if self._jitter and not timers:
            stamp -= self._random.choice((0, 0, 5 * SECOND))  # the owner's clock may go back
        return [release for *_, release in batch], stamp

    def _activate(self, releases: Sequence[Arrival], stamp: int, *, is_recorded: bool = False) -> Turn:
        TRACES.append(self.trace)
        try:
            turn = self.execution.activate(releases, stamp=stamp, is_recorded=is_recorded)
        finally:
            TRACES.pop()
        self.turns.append(turn)
        self.reports += self.execution.loop.reports
        self.execution.loop.reports.clear()
        pending = self._commit(turn)
        while pending is not None:
            turn = self._activate(pending.releases, pending.stamp, is_recorded=True)
            pending = None
        return turn

    def _commit(self, turn: Turn) -> RecordedTurn | None:
        """Write a turn's events, and do what it asks for; return the turn that its sends' outcomes make."""
        for note in turn.notes:
            self.events.append(Event(len(self.events), turn.number, turn.stamp, *note))
        self.drained = len(self.events) - turn.undrained
        for seq in turn.consumed:
            del self._unread[seq]
        sends: list[Event] = []
        for command in turn.commands:
            self._obey(command)
            if isinstance(command, Send):
                outcome = b"%d" % self.send_outcome
                event = Event(
                    len(self.events), turn.number + 1, turn.stamp, EventKind.MESSAGE_SENT, command.activity_id, outcome
                )
                self.events.append(event)
                sends.append(event)
        if not sends:
            return None
        releases = [release for event in sends if (release := release_of(event)) is not None]
        return RecordedTurn(turn.number + 1, turn.stamp, releases)

    def _obey(self, command: Command) -> None:
        self.commands.append((type(command).__name__, id_of(command)))
        match command:
            case RunActivity(activity_id, call):
                outcome = self.plan(activity_id, call.name)
                if outcome.after is None:
                    return
                if self._outside and zlib.crc32(f"outside {activity_id}".encode()) % self._outside == 0:
                    self._hand_over(activity_id, outcome)
                    return
                release: Arrival
                if outcome.error is None:
                    release = ActivityCompleted(activity_id, CODEC.encode(outcome.value))
                else:
                    release = ActivityFailed(activity_id, encode_failure(failure_of(outcome.error)))
                self._arrive(self.now + outcome.after * SECOND, 1, release)
            case CancelActivity(activity_id):
                if zlib.crc32(activity_id.encode()) % 3:  # the others' outcomes come all the same
                    self._arrivals = [
                        arrival for arrival in self._arrivals if getattr(arrival[3], "activity_id", "") != activity_id
                    ]
                    heapq.heapify(self._arrivals)
            case _:
                pass  # `_commit` answers requests; an order has no answer

    def _hand_over(self, activity_id: str, outcome: Outcome) -> None:
        """Let an activity's body end halfway, and its outcome arrive in the inbox."""
        after = (outcome.after or 0) * SECOND
        handed = msgspec.json.encode(HandOver(1, 0))
        self._arrive(self.now + after / 2, 1, ActivityHandedOver(activity_id, handed))
        if outcome.error is None:
            answer = OutsideAnswer(0, activity_id, 1, result=msgspec.Raw(CODEC.encode(outcome.value)))
        else:
            failure = msgspec.Raw(encode_failure(failure_of(outcome.error)))
            answer = OutsideAnswer(0, activity_id, 1, failure=failure)
        self._arrive(self.now + after, 0, ActivityAnswered(msgspec.json.encode(answer), 2_000_000 + self._number))

    # -- leaving memory and coming back -----------------------------------------------------------------

    def evict(self) -> None:
        """Unwind the run, replay its history, and check that it is where it was."""
        old = self.execution
        asked = {command.activity_id: command.attempt for command in old.outstanding()}
        waiting = old.timers.next_deadline()
        self.warnings += old.suspend()
        self.evictions += 1
        self.execution = self._fresh()
        TRACES.append([])
        try:
            pending = self.execution.replay(self.events, drained_seq=self.drained, started_at=T0)
            if self.execution.turn == 0:  # nothing is recorded of the first turn: it is computed again
                self.execution.activate((), stamp=T0)
                self.execution.loop.reports.clear()  # as the worker does: they were made before
        finally:
            trace = TRACES.pop()
        assert pending is None
        assert trace == self.trace, (trace, self.trace)
        found = {command.activity_id: command.attempt for command in self.execution.outstanding()}
        assert found == asked, (found, asked, self.events)
        assert self.execution.timers.next_deadline() == waiting
        arrived = {
            item[3].inbox_seq for item in self._arrivals if isinstance(item[3], MessageReceived | CancelRequested)
        }
        for seq, release in sorted(self._unread.items()):
            if seq not in arrived and isinstance(release, MessageReceived | CancelRequested):
                self.execution.inbox.add(release)

    # -- what came of it --------------------------------------------------------------------------------

    @property
    def last(self) -> Turn:
        """The last turn."""
        return self.turns[-1]

    @property
    def status(self) -> Status | None:
        """How the run ended; None if it is blocked."""
        return self.last.closing.status if self.last.closing is not None else None

    @property
    def failure(self) -> dict[str, Any]:
        """The failure of a failed or cancelled run, or of a blocked one."""
        if self.last.blocked is not None:
            found: dict[str, Any] = msgspec.to_builtins(self.last.blocked)
            return found
        assert self.last.closing is not None
        return msgspec.json.decode(self.last.closing.note.payload or b"{}", type=dict[str, Any])

    @property
    def result(self) -> Any:
        """The result of a completed run."""
        assert self.status is Status.COMPLETED, (self.status, self.failure)
        assert self.last.closing is not None
        return msgspec.json.decode(self.last.closing.note.payload or b"null")

    @property
    def ids(self) -> list[str]:
        """The ids of the activities and sends that were asked for, in that order."""
        return [activity_id for kind, activity_id in self.commands if kind != "CancelActivity"]

    @property
    def end(self) -> tuple[Any, ...]:
        """How the run ended, comparable between runs: status, and result or failure."""
        if self.status is Status.COMPLETED:
            return (self.status, repr(self.result))
        return (self.status, self.failure.get("type"), self.failure.get("message"))


def check(fn: Callable[..., Any], *args: Any, **settings: Any) -> Shell:
    """Run live; check that a replay, and runs that are evicted at every turn or now and then, agree with it."""
    live = Shell(fn, *args, **settings).run()
    check_replay(live)
    for probability in (1.0, 0.5):
        evicted = Shell(fn, *args, evict=probability, **settings).run()
        assert evicted.trace == live.trace
        assert evicted.end == live.end
        assert evicted.commands == live.commands
        assert _without_closing(evicted.events) == _without_closing(live.events)
        assert evicted.warnings == []
        assert [report["message"] for report in evicted.reports] == [report["message"] for report in live.reports]
    return live


def _without_closing(events: list[Event]) -> list[Event]:
    """Leave out the event whose traceback may name addresses; `Shell.end` is compared instead."""
    return [event for event in events if event.kind < EventKind.RUN_COMPLETED]


def check_replay(live: Shell) -> None:
    """Check that the history of a closed run replays to the same trace and end."""
    closing = live.events[-1]
    events = [event for event in live.events if event.kind < EventKind.RUN_COMPLETED]
    if live.last.blocked is not None or closing.kind == EventKind.RUN_RECURRED:
        return
    execution = live._fresh()
    TRACES.append([])
    try:
        assert execution.replay(events, drained_seq=len(events), started_at=T0) is None
        if execution.turn == 0:
            execution.activate((), stamp=T0)
    finally:
        trace = TRACES.pop()
    assert trace == live.trace, (trace, live.trace)
    assert execution.closing is not None
    assert live.last.closing is not None
    assert execution.closing.status == live.last.closing.status
    if execution.closing.status is Status.COMPLETED:
        assert execution.closing.note == live.last.closing.note
    execution.suspend()
