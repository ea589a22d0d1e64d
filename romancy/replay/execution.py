"""One run of a workflow in memory: releases in, turns out."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, assert_never

import msgspec

from romancy.core.calls import ActivityCall, Call, CallKind, ReceiveCall, SendCall
from romancy.core.clock import MICROSECONDS
from romancy.core.codec import DEFAULT_PAYLOAD_LIMIT, check_size
from romancy.core.commands import CancelActivity, Command, RunActivity, Send
from romancy.core.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityRetried,
    Attempt,
    CancelRequested,
    Envelope,
    EventKind,
    MessageReceived,
    MessageSent,
    Note,
    Release,
    SendOutcome,
    TimerFired,
)
from romancy.core.failures import Failure, decode_failure, exception_of, failure_of
from romancy.errors import (
    CodecError,
    InstanceClosedError,
    InstanceNotFoundError,
    NondeterminismError,
    PayloadTooLargeError,
)
from romancy.replay import eviction
from romancy.replay.closing import Closer, Closing
from romancy.replay.ids import hash_salt
from romancy.replay.journal import Journal, RecordedTurn, note_of, turns_of, unreached
from romancy.replay.loop import ReplayLoop, SpinningError, TurnInterrupted
from romancy.replay.suspend import SuspendKind, SuspendSignal
from romancy.replay.timers import DurableTimers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from romancy.core.codec import Codec, What
    from romancy.core.definitions import Workflow
    from romancy.replay.guard import Guard

_envelope = msgspec.json.Decoder(Envelope)
_attempt = msgspec.json.Decoder(Attempt)


class RunBlocked(Exception):
    """A programming error ends a turn."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


class Turn(NamedTuple):
    """What one activation of a run asks for.

    Attributes:
        number: The turn's number in the run, from 1.
        stamp: Its time, in epoch microseconds.
        notes: The events to record, in their order.
        undrained: How many of the last notes the run has not gone on from (a blocked run's results).
        consumed: The inbox rows that it has released.
        commands: What it asks for, in the order of the asking.
        closing: How the run ended, if it did; its event is the last note.
        blocked: Why the run can't go on, if it can't; it must then leave memory.
    """

    number: int
    stamp: int
    notes: list[Note]
    undrained: int
    consumed: list[int]
    commands: list[Command]
    closing: Closing | None
    blocked: Failure | None


class Execution:
    """One run of a workflow in memory.

    Synchronous and without I/O: `activate` takes releases and returns a turn. Replaying the events of all turns
    on a new execution brings it to the same state.
    """

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
        """
        self.workflow = workflow
        self.input = input
        self.codec = codec
        self.execution_id = execution_id
        self.instance_id = instance_id
        self.run = run
        self.is_lenient = is_lenient
        self.payload_limit = payload_limit
        self.loop = ReplayLoop(self, hash_salt(execution_id, run))
        self.timers = DurableTimers()
        self.inbox: list[MessageReceived] = []
        self.armed: list[tuple[ActivityCall[object], object]] = []
        self.root: asyncio.Task[object] | None = None
        self.closing: Closing | None = None
        self.cancel_reason: str | None = None
        self.turn = 0
        self._closer = Closer(self)
        self._operations: dict[str, Call[object]] = {}
        self._receivers: dict[str, dict[str, ReceiveCall[object]]] = {}
        self._commands: dict[str, Command] = {}
        self._notes: list[Note] = []
        self._consumed: list[int] = []
        self._journal: Journal | None = None
        self._fatal: BaseException | None = None
        self._has_new_receiver = False

    # -- what the code asks for (the CurrentRun of its calls) -------------------------------------------

    @property
    def is_poisoned(self) -> bool:
        """Whether the run is leaving memory."""
        return self.loop.poison is not None

    @property
    def is_replaying(self) -> bool:
        """Whether the code is running through what was recorded."""
        return self._journal is not None

    def identify(self, call: Call[object]) -> None:
        """Give a call its position in the running task's scope, and its id."""
        loop = self.loop
        call.position = position = loop.scope().next_position()
        call.activity_id = f"{position}:{call.name}"
        call.ordinal_hash = loop.next_hash()

    def request(self, call: Call[object]) -> asyncio.Future[object]:
        """Ask for an operation; its future is resolved by a release.

        Raises:
            SuspendSignal: The run is leaving memory, or has just been found to differ from what is recorded.
            CodecError: An argument can't be encoded or does not fit.
            PayloadTooLargeError: The arguments are over the limit.
        """
        loop = self.loop
        if loop.poison is not None:
            loop.strike()
            return loop.create_future()
        if self._journal is not None:
            try:
                self._journal.check(call.position, call.kind, call.name)
            except NondeterminismError as exc:
                self.fail_turn(exc)
        if isinstance(call, ActivityCall):
            definition = call.definition
            subject = definition.arguments_subject
            call.arguments = definition.signature.bind_encode(self.codec, call.args, call.kwargs, subject)
            check_size(call.arguments, self.payload_limit, subject)
        future = loop.create_operation()
        future.call = call
        future.execution = self
        call.future = future
        call.scheduled_at = loop.stamp
        activity_id = call.activity_id
        self._operations[activity_id] = call
        if isinstance(call, ActivityCall):
            self._commands[activity_id] = RunActivity(activity_id, call, 1, 0, loop.stamp)
        elif isinstance(call, ReceiveCall):
            self._receivers.setdefault(call.name, {})[activity_id] = call
            self._has_new_receiver = True
            if call.timeout is not None:
                timer = loop.call_later(call.timeout, _receive_timed_out, self, call)
                future.add_done_callback(lambda _: timer.cancel())
        elif isinstance(call, SendCall):
            self._commands[activity_id] = Send(
                activity_id, call.to, call.name, call.body, f"{self.execution_id:x}/{self.run}/{activity_id}"
            )
        return future

    def operation_cancelled(self, call: Call[object]) -> None:
        """Withdraw an operation whose wait was cancelled.

        What was asked for in this very turn is not asked for at all. A receive gives up its place. A send that is
        committed comes back with its outcome. An activity is told to stop, unless it has a compensation:
        then the run keeps an ear on it, since what it does may have to be undone.
        """
        activity_id = call.activity_id
        if self.is_poisoned:
            return
        if self._commands.pop(activity_id, None) is not None and call.attempt == 1:
            self._operations.pop(activity_id, None)
            return
        if isinstance(call, ReceiveCall):
            self._receivers[call.name].pop(activity_id, None)
            self._operations.pop(activity_id, None)
        elif isinstance(call, ActivityCall):
            call.is_abandoned = True
            if call.definition.undo is None:
                self.drop_activity(call)

    def drop_activity(self, call: ActivityCall[object]) -> None:
        """Tell an activity to stop, and take no outcome of it any more."""
        if self._operations.pop(call.activity_id, None) is not None:
            self._commands[call.activity_id] = CancelActivity(call.activity_id)

    def marker(self, kind: EventKind, name: str, make: Callable[[], bytes]) -> bytes:
        """Return what is recorded at this place of the code; record it if the code gets here for the first time."""
        loop = self.loop
        if loop.poison is not None:
            raise SuspendSignal(loop.poison.kind)
        position = loop.scope().next_position()
        activity_id = f"{position}:{name}"
        if self._journal is not None:
            try:
                self._journal.check(position, CallKind.SIDE_EFFECT, name)
                return self._journal.take_marker(activity_id)
            except NondeterminismError as exc:
                self.fail_turn(exc)
        value = make()
        self._notes.append(Note(kind, activity_id, value))
        return value

    def fail_turn(self, exc: BaseException) -> None:
        """Give the turn up: keep the error where ``except Exception`` can't swallow it, and poison the run.

        Raises:
            SuspendSignal: Always.
        """
        if self._fatal is None:
            self._fatal = exc
        self.loop.poison = SuspendSignal(SuspendKind.ACTIVITY, instance_id=self.instance_id)
        raise SuspendSignal(SuspendKind.ACTIVITY, instance_id=self.instance_id)

    # -- turns ------------------------------------------------------------------------------------------

    def activate(
        self,
        releases: Sequence[Release] = (),
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
        results = [] if is_recorded else [note_of(release) for release in releases if self._is_result(release)]
        number = self.turn + 1
        loop = self.loop
        self._notes, self._consumed, self._commands = [], [], {}
        loop.set_stamp(max(stamp, loop.stamp))
        self._run_inside(self._turn, releases, is_recorded, guard)
        if self._fatal is not None:
            blocked = failure_of(self._fatal)
            return Turn(number, loop.stamp, results, len(results), [], [], None, blocked)
        if self.closing is not None:
            self._notes.append(self.closing.note)
        commands = list(self._commands.values())
        return Turn(number, loop.stamp, self._notes, 0, self._consumed, commands, self.closing, None)

    def replay(self, events: Sequence[Event], *, drained_seq: int, started_at: int, guard: Guard | None = None) -> RecordedTurn | None:
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
        """
        done = [event for event in events if event.seq < drained_seq]
        ahead = [turn for turn in turns_of(events[len(done) :]) if turn.releases]
        pending = ahead[0] if ahead else None
        turns = turns_of(done)
        if not turns and (pending is None or pending.number == 1):
            return pending
        if not turns or turns[0].number != 1:
            turns.insert(0, RecordedTurn(1, started_at, []))
        self._journal = Journal(done, ahead=events[len(done) :])
        for turn in turns:
            self._notes, self._consumed, self._commands = [], [], {}
            self.loop.set_stamp(turn.stamp)
            self._run_inside(self._turn, turn.releases, True, guard)
            if self._fatal is not None:
                raise self._fatal
            self.turn = turn.number
        self._journal.finish()
        self._journal = None
        return pending

    def pending_calls(self) -> list[Call[object]]:
        """Return the operations without an outcome, in the order in which they were asked for."""
        return list(self._operations.values())

    def activities_in_flight(self) -> list[ActivityCall[object]]:
        """Return the activities without an outcome, in the order in which they were asked for."""
        return [call for call in self._operations.values() if isinstance(call, ActivityCall)]

    def undoable_in_flight(self) -> bool:
        """Tell whether an activity that has a compensation is without an outcome."""
        return any(call.definition.undo is not None for call in self.activities_in_flight())

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
        return datetime.fromtimestamp(stamp / MICROSECONDS, UTC)

    def outstanding(self) -> list[RunActivity]:
        """Return what has to be run again after a replay: the activities without a recorded end, in order."""
        return [
            RunActivity(call.activity_id, call, call.attempt, call.not_before, call.scheduled_at)
            for call in self.activities_in_flight()
        ]

    def suspend(self, guard: Guard | None = None) -> None:
        """Leave memory: unwind every coroutine by `SuspendSignal`; nothing of the run stays alive."""
        eviction.evict(self, guard)
        self.timers.clear()
        self._operations.clear()
        self._receivers.clear()

    def _run_inside(
        self,
        work: Callable[[Sequence[Release], bool], None],
        releases: Sequence[Release],
        is_recorded: bool,
        guard: Guard | None,
    ) -> None:
        """Do a turn's work inside the loop; what makes the run impossible to go on with is kept in ``_fatal``."""
        loop = self.loop
        if guard is not None:
            guard.arm(loop)
        try:
            loop.__enter__()
            work(releases, is_recorded)
        except RunBlocked as exc:
            self._fatal = self._fatal or exc.cause
        except (SpinningError, NondeterminismError, CodecError, PayloadTooLargeError, TurnInterrupted, SystemExit) as exc:
            self._fatal = self._fatal or exc
        finally:
            while True:
                try:
                    if guard is not None:
                        guard.disarm(loop)
                    loop.__exit__()
                    break
                except TurnInterrupted as exc:  # it struck while it was being disarmed
                    self._fatal = self._fatal or exc

    def _turn(self, releases: Sequence[Release], is_recorded: bool) -> None:
        number = self.turn + 1
        if self.root is None:
            self.turn = number
            self._start()
            self._drain()
        todo = deque(releases)
        while self._fatal is None and self.closing is None:
            release: Release | None = None if is_recorded else self._next_message()
            if release is None:
                if not todo:
                    break
                release = todo.popleft()
                if not is_recorded and type(release) is MessageReceived:
                    self.inbox.append(release)
                    self._has_new_receiver = True
                    continue
            if not self._deliver(release):
                if is_recorded:
                    raise unreached(getattr(release, "activity_id", None) or getattr(release, "timer_id", "?"))
                continue
            self.turn = number
            if not is_recorded:
                self._notes.append(note_of(release))
            self._drain()
        if is_recorded and todo and self._fatal is None:
            raise unreached(note_of(todo[0]).activity_id or "cancel")
        self.inbox.extend(release for release in todo if type(release) is MessageReceived)

    def _start(self) -> None:
        signature = self.workflow.signature
        args, kwargs = signature.decode_arguments(self.codec, self.input, self.workflow.arguments_subject)
        self.root = self.loop.spawn(self.workflow.fn(*args, **kwargs), "", "root")

    def _drain(self) -> None:
        self.loop.drain()
        self._closer.advance()

    # -- releases ---------------------------------------------------------------------------------------

    def _is_result(self, release: Release) -> bool:
        """Tell whether a release is a result that must not be lost if the turn fails."""
        match release:
            case ActivityCompleted(activity_id) | ActivityFailed(activity_id) | ActivityRetried(activity_id):
                return activity_id in self._operations
            case _:
                return False

    def _next_message(self) -> MessageReceived | None:
        """Take the oldest message that a receive waits for, and name that receive."""
        if not self._has_new_receiver:
            return None
        for index, message in enumerate(self.inbox):
            receivers = self._receivers.get(message.channel)
            if receivers:
                del self.inbox[index]
                return msgspec.structs.replace(message, activity_id=next(iter(receivers)))
        self._has_new_receiver = False
        return None

    def _deliver(self, release: Release) -> bool:
        """Hand a release to whoever waits for it; False if nobody does."""
        match release:
            case ActivityCompleted(activity_id, result):
                return self._deliver_result(activity_id, result)
            case ActivityFailed(activity_id, failure):
                call = self._operations.pop(activity_id, None)
                if call is None:
                    return False
                exc = exception_of(decode_failure(failure))
                _settle(call, exc)
                self._closer.settled()
            case ActivityRetried(activity_id, attempt):
                call = self._operations.get(activity_id)
                if not isinstance(call, ActivityCall):
                    return False
                failed = _attempt.decode(attempt)
                call.attempt = failed.attempt + 1
                call.not_before = failed.retry_at
                self._commands[activity_id] = RunActivity(
                    activity_id, call, call.attempt, call.not_before, call.scheduled_at
                )
            case TimerFired(timer_id):
                handle = self.timers.take(timer_id)
                if handle is None:
                    return False
                handle._scheduled = False  # type: ignore[attr-defined] # it is not to be cancelled any more
                self.loop.ready.append(handle)
            case MessageReceived(_, envelope, inbox_seq, activity_id):
                return self._deliver_message(activity_id, envelope, inbox_seq)
            case MessageSent(activity_id, outcome):
                call = self._operations.pop(activity_id, None)
                if not isinstance(call, SendCall):
                    return False
                _settle(call, _send_error(SendOutcome(int(outcome)), call))
            case CancelRequested(reason, inbox_seq):
                self._deliver_cancel(reason, inbox_seq)
            case _:
                assert_never(release)
        return True

    def _deliver_result(self, activity_id: str, result: bytes) -> bool:
        call = self._operations.pop(activity_id, None)
        if not isinstance(call, ActivityCall):
            return False
        definition = call.definition
        value = definition.signature.decode_result(self.codec, result, definition.result_subject)
        if not call.future.done():
            call.future.set_result(value)
        if definition.undo is not None:
            self.armed.append((call, value))
        self._closer.settled()
        return True

    def _deliver_message(self, activity_id: str, envelope: bytes, inbox_seq: int) -> bool:
        call = self._operations.get(activity_id)
        if not isinstance(call, ReceiveCall):
            return False
        message = _envelope.decode(envelope)
        value = call.decode(bytes(message.body))
        del self._operations[activity_id]
        del self._receivers[call.name][activity_id]
        self._has_new_receiver = True
        if inbox_seq:
            self._consumed.append(inbox_seq)
        call.future.set_result(value)
        return True

    def _deliver_cancel(self, reason: bytes, inbox_seq: int) -> None:
        if inbox_seq:
            self._consumed.append(inbox_seq)
        if self.cancel_reason is None and self.root is not None:
            self.cancel_reason = msgspec.json.decode(reason, type=str)
            self.root.cancel(self.cancel_reason or None)


def _settle(call: Call[object], exc: Exception | None) -> None:
    future = call.future
    if future is None or future.done():
        return
    if exc is None:
        future.set_result(None)
    else:
        future.set_exception(exc)


def _send_error(outcome: SendOutcome, call: SendCall) -> Exception | None:
    match outcome:
        case SendOutcome.SENT:
            return None
        case SendOutcome.CLOSED:
            return InstanceClosedError(
                f"instance {call.to!r} has ended: it takes no message on channel {call.name!r}"
            )
        case SendOutcome.NOT_FOUND:
            return InstanceNotFoundError(f"no instance {call.to!r} to send to on channel {call.name!r}")


def _receive_timed_out(execution: Execution, call: ReceiveCall[object]) -> None:
    """Withdraw a receive whose time limit has come; a message that arrives later stays in the inbox."""
    future = call.future
    if future is not None and not future.done():
        execution.operation_cancelled(call)
        future.set_exception(TimeoutError(f"no message on channel {call.name!r} within {call.timeout} s"))
