"""One run of a workflow in memory: releases in, turns out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from romancy.core.calls import CallKind
from romancy.core.codec import DEFAULT_PAYLOAD_LIMIT, check_size
from romancy.core.events import (
    ActivityFailed,
    ActivityRetried,
    Arrival,
    Copied,
    Event,
    EventKind,
    Note,
)
from romancy.errors import NondeterminismError
from romancy.replay import eviction
from romancy.replay.closing import Closer, Closing
from romancy.replay.ids import Names, hash_salt
from romancy.replay.inbox import Inbox
from romancy.replay.limits import Limits
from romancy.replay.loop import ReplayLoop
from romancy.replay.operations import Operations, command_of
from romancy.replay.patching import Patching
from romancy.replay.showing import Showing
from romancy.replay.suspend import SuspendKind, SuspendSignal
from romancy.replay.timers import DurableTimers
from romancy.replay.turn import RunBlocked, Turn
from romancy.replay.turning import Turning
from romancy.replay.undoing import Undoing, current_block

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from romancy.core.calls import ActivityCall, Call
    from romancy.core.codec import Codec, What
    from romancy.core.commands import RunActivity
    from romancy.core.definitions import Workflow
    from romancy.core.records import Shown
    from romancy.core.tracing import TraceContext
    from romancy.replay.guard import Guard
    from romancy.replay.journal import Journal, RecordedTurn
    from romancy.replay.observing import Observer

__all__ = ["Execution", "Turn"]


class AfterFailure(Protocol):
    """Decide what follows when somebody outside says that an attempt has failed."""

    def __call__(self, command: RunActivity, failure: bytes, *, is_final: bool) -> ActivityFailed | ActivityRetried:
        """Return another attempt or the activity's failure; ``is_final``: the latter, whatever the retry policy."""
        ...


def _fails(command: RunActivity, failure: bytes, *, is_final: bool) -> ActivityFailed:  # noqa: ARG001
    return ActivityFailed(command.activity_id, failure)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Execution:
    """One run of a workflow in memory.

    Synchronous and without I/O: `activate` takes releases and returns a turn. Replaying the events of all turns
    on a new execution brings it to the same state.
    """

    __slots__ = (
        "__weakref__",
        "_closer",
        "_newest",
        "_patching",
        "_showing",
        "_turning",
        "after_failure",
        "closing",
        "codec",
        "deadline",
        "execution_id",
        "has_parked",
        "inbox",
        "input",
        "instance_id",
        "is_begun_elsewhere",
        "is_lenient",
        "journal",
        "limits",
        "loop",
        "names",
        "observer",
        "operations",
        "payload_limit",
        "root",
        "run",
        "timers",
        "trace",
        "turn",
        "undoing",
        "workflow",
    )

    def __init__(
        self,
        workflow: Workflow[..., Any],
        input: bytes,
        *,
        codec: Codec,
        execution_id: int = 0,
        instance_id: str = "",
        run: int = 0,
        is_lenient: bool = False,
        payload_limit: int = DEFAULT_PAYLOAD_LIMIT,
        after_failure: AfterFailure = _fails,
        deadline: int | None = None,
        newest: Callable[[Workflow[..., Any]], Workflow[..., Any]] | None = None,
        trace: TraceContext | None = None,
        copied: Copied | None = None,
    ) -> None:
        """Prepare the run; its code starts with the first turn.

        Args:
            workflow: The definition.
            input: The encoded arguments.
            codec: Decodes payloads.
            execution_id: The start's random number: ids, hashes, uuids and random numbers derive from it.
            instance_id: The instance's id, for people.
            run: The run's number, counted from 0 and raised by recur.
            is_lenient: A programming error in workflow code fails the run instead of blocking it.
            payload_limit: Upper bound of an encoded payload in bytes.
            after_failure: Asked about attempts that failed outside; what it decides is recorded. By default they are
                not repeated.
            deadline: The run's time limit in epoch microseconds; None: it has none.
            newest: Returns the newest version of a workflow, which recur moves to; by default the one that it is given.
            trace: Where the run stands in a trace, to be sent along with what it sends and starts; None: nowhere.
            copied: Where the beginning of its history comes from; None: it is all its own.
        """
        self.workflow = workflow
        self.input = input
        self.codec = codec
        self.execution_id = execution_id
        self.instance_id = instance_id
        self.run = run
        self.deadline = deadline
        self.is_lenient = is_lenient
        self.payload_limit = payload_limit
        self.after_failure = after_failure
        if copied is None:
            self.names = Names(execution_id, run, instance_id)
        else:
            self.names = Names(copied.seed, run, copied.seed_id)
        self.loop = ReplayLoop(self, hash_salt(self.names.number, run))  # type: ignore[abstract] # what is left is refused
        self.timers = DurableTimers()
        self.inbox = Inbox()
        self.operations = Operations(self)
        self.root: asyncio.Task[object] | None = None
        self.closing: Closing | None = None
        self.turn = 0
        self.journal: Journal | None = None
        self.has_parked = False
        self.is_begun_elsewhere = False
        self.trace = trace
        self.observer: Observer | None = None
        self._newest = newest
        self._patching: Patching | None = None
        self._showing: Showing | None = None
        self._closer = Closer(self)
        self.undoing = Undoing(self)
        self.limits = Limits(self, self._closer)
        self._turning = Turning(self, self._closer)

    # -- what the code asks for (the CurrentRun of its calls) -------------------------------------------

    @property
    def is_poisoned(self) -> bool:
        """Whether the run is leaving memory."""
        return self.loop.poison is not None

    @property
    def is_replaying(self) -> bool:
        """Whether the code is running through what it has done before.

        That may be what was recorded, or a first turn that nothing is recorded of but that the run has parked.
        """
        return self.journal is not None or (self.has_parked and self.turn == 1)

    def identify(self, call: Call[object]) -> None:
        """Give a call its id, by its position in the running task's scope, and its hash.

        Raises:
            SuspendSignal: Something else is recorded in its place.
        """
        loop = self.loop
        position = loop.scope().next_position()
        call.activity_id = f"{position}:{call.name}"
        loop.last_hash = call.ordinal_hash = loop.last_hash + 1
        if self.undoing.has_blocks:
            call.block = current_block.get()
        if self.journal is not None:
            try:
                self.journal.check(position, call.kind, call.name)
            except NondeterminismError as exc:
                self.fail_turn(exc)

    def request(self, call: Call[object]) -> asyncio.Future[object]:
        """Ask for an operation; its future is resolved by a release.

        Raises:
            SuspendSignal: The run is leaving memory.
            CodecError: An argument can't be encoded or does not fit.
            PayloadTooLargeError: The arguments are over the limit.
        """
        if self.loop.poison is not None:
            return self.loop.create_future()
        return self.operations.request(call)

    def marker(self, kind: EventKind, call: CallKind, name: str, make: Callable[[], bytes]) -> bytes:
        """Return what is recorded at this place of the code; record it if the code gets here for the first time."""
        self.refuse_if_poisoned()
        position = self.loop.scope().next_position()
        activity_id = f"{position}:{name}"
        if self.journal is not None:
            try:
                self.journal.check(position, call, name)
                return self.journal.take_marker(activity_id)
            except NondeterminismError as exc:
                self.fail_turn(exc)
        value = make()
        self.note(Note(kind, activity_id, value))
        return value

    def try_receive(self, channel: str, mailbox: str) -> bytes:
        """Take the oldest message of a mailbox, if there is one, and record it, or that there was none.

        Returns:
            An encoded `Envelope`, or ``null``.
        """

        def make() -> bytes:
            is_taken = self.operations.receiver_of(mailbox) is not None  # by a receive that came first
            message = None if is_taken else self._turning.take_message(mailbox)
            if message is None:
                return b"null"
            self._turning.consumed += (message.inbox_seq,)
            return message.envelope

        found = self.marker(EventKind.MESSAGE_TRIED, CallKind.TRY_RECEIVE, channel, make)
        if self.observer is not None:
            self.observer.tried(channel, found)
        return found

    @property
    def patching(self) -> Patching:
        """Which patches the run takes."""
        if self._patching is None:
            self._patching = Patching(self)
        return self._patching

    @property
    def showing(self) -> Showing:
        """What the run shows to clients."""
        if self._showing is None:
            self._showing = Showing(self)
        return self._showing

    def take_shown(self) -> Shown | None:
        """Return what the turn shows to clients, once."""
        return None if self._showing is None else self._showing.take()

    def newest_of(self, workflow: Workflow[..., Any]) -> Workflow[..., Any]:
        """Return the version of a workflow that its next run is to have."""
        return workflow if self._newest is None else self._newest(workflow)

    def note(self, note: Note) -> None:
        """Record a marker where the code is."""
        self._turning.notes.append(note)

    def refuse_if_poisoned(self) -> None:
        """Raise `SuspendSignal` if the run is leaving memory: for what can't hang instead, as it is no coroutine."""
        loop = self.loop
        if loop.poison is not None:
            loop.strike()
            raise SuspendSignal(loop.poison.kind, instance_id=self.instance_id)

    def fail_turn(self, exc: BaseException) -> NoReturn:
        """Give the turn up: keep the error where ``except Exception`` can't swallow it, and poison the run.

        Raises:
            SuspendSignal: Always.
        """
        if self._turning.fatal is None:
            self._turning.fatal = exc
        self.loop.poison = SuspendSignal(SuspendKind.ACTIVITY, instance_id=self.instance_id)
        raise SuspendSignal(SuspendKind.ACTIVITY, instance_id=self.instance_id)

    # -- turns ------------------------------------------------------------------------------------------

    def activate(
        self,
        releases: Sequence[Arrival] = (),
        *,
        stamp: int,
        is_recorded: bool = False,
        guard: Guard | None = None,
    ) -> Turn:
        """Run one turn: the first starts the code; then each release in its place, draining in between.

        A release that nobody waits for any more (a cancelled timer, a withdrawn activity) is passed over.
        Messages wait in the inbox until a receive asks for them, and then come before the rest of the batch.

        Args:
            releases: What came from outside, in the order of arrival.
            stamp: The turn's time in epoch microseconds; time never goes back, whatever it says.
            is_recorded: The releases are in history already, as those of this turn.
            guard: Bounds the time that the code may take.

        Returns:
            The turn. If it holds no notes, no commands and no end, nothing has happened.
        """
        return self._turning.activate(releases, stamp, guard, is_recorded=is_recorded)

    def replay(
        self, events: Sequence[Event], *, drained_seq: int, started_at: int, guard: Guard | None = None
    ) -> RecordedTurn | None:
        """Go through what is recorded, on an execution that has not begun.

        Args:
            events: The run's history, ordered by seq.
            drained_seq: The events from this number on have been recorded, but not gone on from.
            started_at: The first turn's stamp.
            guard: Bounds the time that the code may take.

        Returns:
            The turn that is recorded and still to be computed (with ``is_recorded``), if there is one.

        Raises:
            NondeterminismError: The code asks for something else than what is recorded.
            CodecError: A recorded value does not fit its annotation any more.
            SpinningError: The code spins.
            TurnInterrupted: The guard stopped it.
            BaseException: A programming error that the code raises before the end of what is recorded.
        """
        return self._turning.replay(events, drained_seq, started_at, guard)

    def pending_calls(self) -> list[Call[object]]:
        """Return the operations without an outcome, in the order in which they were asked for."""
        return list(self.operations.pending.values())

    def activities_in_flight(self) -> list[ActivityCall[object]]:
        """Return the activities without an outcome, in the order in which they were asked for."""
        return self.operations.activities()

    def check_size(self, payload: bytes, what: What) -> None:
        """Raise `PayloadTooLargeError` if an encoded value is over the limit."""
        check_size(payload, self.payload_limit, what)

    def block(self, exc: BaseException) -> NoReturn:
        """Give the turn up for a programming error: the run is blocked, and nothing of the turn happens.

        Raises:
            RunBlocked: Always; caught where the turn began.
        """
        raise RunBlocked(exc)

    @staticmethod
    def instant(stamp: int) -> datetime:
        """Return a stamp as an aware datetime."""
        return _EPOCH + timedelta(microseconds=stamp)

    def outstanding(self) -> list[RunActivity]:
        """Return what has to be run again after a replay: the activities whose attempt is under way, in order.

        Those that back off begin when they are due (`Operations.begin_due`), and those that were handed over do not.
        """
        return [command_of(call) for call in self.operations.underway.values()]

    def suspend(self, guard: Guard | None = None) -> list[str]:
        """Leave memory: unwind every coroutine by `SuspendSignal`; nothing of the run stays alive.

        Returns:
            Warnings for the log: which tasks swallowed the signal, and where.
        """
        warnings = [] if self._closer.is_over else eviction.evict(self, guard)
        self.timers.clear()
        self.operations.clear()
        self.undoing.clear()
        self.loop.tasks.clear()
        # What refers to the run lets go of it: it is gone at once, not when the garbage collector comes round.
        del self.loop.romancy_run, self.operations, self._closer, self._turning, self.undoing, self.limits
        self._patching = self._showing = self.observer = None
        return warnings
