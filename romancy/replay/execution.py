"""One run of a workflow in memory: releases in, turns out."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

from romancy.core.calls import CallKind
from romancy.core.codec import DEFAULT_PAYLOAD_LIMIT, check_size
from romancy.core.events import (
    ActivityAnswered,
    ActivityFailed,
    ActivityRetried,
    Arrival,
    CancelRequested,
    ChildClosed,
    Event,
    EventKind,
    MessageReceived,
    Note,
    Release,
    TimerFired,
)
from romancy.core.failures import failure_of
from romancy.errors import NondeterminismError
from romancy.replay import eviction
from romancy.replay.closing import Closer, Closing
from romancy.replay.ids import hash_salt
from romancy.replay.inbox import Inbox
from romancy.replay.journal import Journal, RecordedTurn, missing, note_of, turns_of, unreached
from romancy.replay.loop import ReplayLoop, TurnInterrupted
from romancy.replay.operations import Operations, command_of, is_result
from romancy.replay.suspend import SuspendKind, SuspendSignal
from romancy.replay.timers import DurableTimers
from romancy.replay.turn import RunBlocked, Turn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from romancy.core.calls import ActivityCall, Call
    from romancy.core.codec import Codec, What
    from romancy.core.commands import RunActivity
    from romancy.core.definitions import Workflow
    from romancy.replay.guard import Guard

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
        """
        self.workflow = workflow
        self.input = input
        self.codec = codec
        self.execution_id = execution_id
        self.instance_id = instance_id
        self.run = run
        self.is_lenient = is_lenient
        self.payload_limit = payload_limit
        self.after_failure = after_failure
        self.loop = ReplayLoop(self, hash_salt(execution_id, run))  # type: ignore[abstract] # what is left is refused
        self.timers = DurableTimers()
        self.inbox = Inbox()
        self.operations = Operations(self)
        self.root: asyncio.Task[object] | None = None
        self.closing: Closing | None = None
        self.cancel_reason: str | None = None
        self.turn = 0
        self.journal: Journal | None = None
        self._closer = Closer(self)
        self._notes: list[Note] = []
        self._consumed: tuple[int, ...] = ()
        self._fatal: BaseException | None = None

    # -- what the code asks for (the CurrentRun of its calls) -------------------------------------------

    @property
    def is_poisoned(self) -> bool:
        """Whether the run is leaving memory."""
        return self.loop.poison is not None

    @property
    def is_replaying(self) -> bool:
        """Whether the code is running through what was recorded."""
        return self.journal is not None

    def identify(self, call: Call[object]) -> None:
        """Give a call its id, by its position in the running task's scope, and its hash.

        Raises:
            SuspendSignal: Something else is recorded in its place.
        """
        loop = self.loop
        position = loop.scope().next_position()
        call.activity_id = f"{position}:{call.name}"
        loop.last_hash = call.ordinal_hash = loop.last_hash + 1
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
        loop = self.loop
        if loop.poison is not None:
            loop.strike()
            raise SuspendSignal(loop.poison.kind, instance_id=self.instance_id)  # it can't hang: it is no coroutine
        position = loop.scope().next_position()
        activity_id = f"{position}:{name}"
        if self.journal is not None:
            try:
                self.journal.check(position, call, name)
                return self.journal.take_marker(activity_id)
            except NondeterminismError as exc:
                self.fail_turn(exc)
        value = make()
        self._notes.append(Note(kind, activity_id, value))
        return value

    def try_receive(self, channel: str, mailbox: str) -> bytes:
        """Take the oldest message of a mailbox, if there is one, and record it, or that there was none.

        Returns:
            An encoded `Envelope`, or ``null``.
        """

        def make() -> bytes:
            is_taken = self.operations.receiver_of(mailbox) is not None  # by a receive that came first
            message = None if is_taken else self.inbox.take_message(mailbox)
            if message is None:
                return b"null"
            self._consumed += (message.inbox_seq,)
            return message.envelope

        return self.marker(EventKind.MESSAGE_TRIED, CallKind.TRY_RECEIVE, channel, make)

    def fail_turn(self, exc: BaseException) -> NoReturn:
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
        number = self.turn + 1
        loop = self.loop
        before = loop.stamp
        if stamp > before:
            loop.set_stamp(stamp)
        self._run_turn(releases, is_recorded, guard)
        if self._fatal is not None:
            blocked = failure_of(self._fatal)
            if is_recorded:
                return Turn(number, loop.stamp, [], len(releases), (), [], None, blocked)
            kept = self._kept(releases)
            return Turn(number, loop.stamp, kept, len(kept), (), [], None, blocked)
        if self.closing is not None:
            self._notes.append(self.closing.note)
            loop.drop_done()
        elif self.turn != number:
            loop.set_stamp(before)  # nothing has happened, and a replay will not know of it
        commands = list(self.operations.commands.values())
        return Turn(number, loop.stamp, self._notes, 0, self._consumed, commands, self.closing, None)

    def _kept(self, releases: Sequence[Arrival]) -> list[Note]:
        """Return, of the releases of a turn that failed, the results that must not be lost with it."""
        delivered = {note.activity_id for note in self._notes}
        return [
            note_of(release)
            for release in releases
            if is_result(release)
            and (release.activity_id in delivered or release.activity_id in self.operations.pending)
        ]

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
        split = next((index for index, event in enumerate(events) if event.seq >= drained_seq), len(events))
        done, ahead = events[:split], events[split:]
        pending = next((turn for turn in turns_of(ahead) if turn.releases), None)
        turns = turns_of(done)
        if not turns and (pending is None or pending.number == 1):
            return pending
        if not turns or turns[0].number != 1:
            turns.insert(0, RecordedTurn(1, started_at, []))
        self.journal = Journal(done, ahead)
        for turn in turns:
            self.loop.set_stamp(turn.stamp)
            self._run_turn(turn.releases, True, guard)  # noqa: FBT003 - the routine that a live turn uses
            if self._fatal is not None:
                raise self._fatal
            self.turn = turn.number
        self.journal.finish()
        for call in self.operations.requested():
            if not self.journal.has_end_of(call.activity_id):  # the outcome is recorded with the asking
                raise missing(call.activity_id, "?")
        self.journal = None
        return pending

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
        self.loop.tasks.clear()
        # What refers to the run lets go of it: it is gone at once, not when the garbage collector comes round.
        del self.loop.romancy_run, self.operations, self._closer
        return warnings

    def _run_turn(self, releases: Sequence[Arrival], is_recorded: bool, guard: Guard | None) -> None:  # noqa: FBT001
        """Do a turn's work inside the loop; what makes the run impossible to go on with is kept in ``_fatal``."""
        loop = self.loop
        self._notes, self._consumed, self.operations.commands = [], (), {}
        if guard is not None:
            guard.arm(loop)
        try:
            loop.__enter__()
            self._turn(releases, is_recorded)
        except RunBlocked as exc:
            self._fatal = self._fatal or exc.cause
        except (Exception, TurnInterrupted, SystemExit) as exc:  # noqa: BLE001 - any error blocks this run, and no other
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

    def _turn(self, releases: Sequence[Arrival], is_recorded: bool) -> None:  # noqa: FBT001
        number = self.turn + 1
        todo: deque[Arrival] = deque(releases)
        if self.root is None:
            self.turn = number
            if not is_recorded:  # what came before the start can be seen from the first line on
                self.inbox.extend(release for release in todo if isinstance(release, MessageReceived))
                todo = deque(release for release in todo if not isinstance(release, MessageReceived))
            self._start()
            self._drain()
        if is_recorded:
            self._follow(todo, number)
        if self.journal is None:
            self._go_on(todo, number)

    def _follow(self, todo: deque[Arrival], number: int) -> None:
        """Release what history says, in its order."""
        while todo and self._fatal is None:
            release = todo.popleft()
            if isinstance(release, ActivityAnswered):
                msg = "an answer from outside is not recorded as such"
                raise TypeError(msg)
            if self.closing is None and self._deliver(release):
                self.turn = number
                self._drain()
            elif not self.operations.was_withdrawn(activity_id := note_of(release).activity_id):
                raise unreached(activity_id or "cancel")

    def _go_on(self, todo: deque[Arrival], number: int) -> None:
        """Release what has come, and messages of the inbox as soon as a receive waits for them."""
        inbox = self.inbox
        while self._fatal is None and self.closing is None:
            release: Release | None = inbox.take(self.operations) if inbox.has_news else None
            if release is None:
                if not todo:
                    return
                arrival = todo.popleft()
                if isinstance(arrival, MessageReceived):
                    inbox.add(arrival)
                    continue
                release = self._answer(arrival) if isinstance(arrival, ActivityAnswered) else arrival
                if release is None:
                    continue
            if self._deliver(release):
                self.turn = number
                self._notes.append(note_of(release))
                self._drain()
        inbox.extend(release for release in todo if isinstance(release, MessageReceived | CancelRequested))
        # The run has ended: nobody waits for them any more.
        self._consumed += tuple(
            arrival.inbox_seq for arrival in todo if isinstance(arrival, ActivityAnswered | ChildClosed)
        )

    def _answer(self, arrival: ActivityAnswered) -> Release | None:
        """Return what an answer from outside comes to; its row is consumed, whatever that is."""
        self._consumed += (arrival.inbox_seq,)
        return self.operations.answer(arrival)

    def _start(self) -> None:
        signature = self.workflow.signature
        args, kwargs = signature.decode_arguments(self.codec, self.input, self.workflow.arguments_subject)
        self.root = self.loop.spawn(self.workflow.fn(*args, **kwargs), "", "root")

    def _drain(self) -> None:
        self.loop.drain()
        self._closer.advance()

    # -- releases ---------------------------------------------------------------------------------------

    def _deliver(self, release: Release) -> bool:
        """Hand a release to whoever waits for it; False if nobody does."""
        match release:
            case TimerFired(timer_id):
                handle = self.timers.take(timer_id)
                is_wanted = handle is not None
                if handle is not None:
                    handle._scheduled = False  # type: ignore[attr-defined] # it is not to be cancelled any more
                    self.loop.ready.append(handle)
            case CancelRequested():
                is_wanted = True
                self._consume(release.inbox_seq)
                self._cancel(release)
            case MessageReceived():
                is_wanted = self.operations.receive(release)
                if is_wanted:
                    self._consume(release.inbox_seq)
            case ChildClosed():
                is_wanted = self.operations.child_closed(release)
                self._consume(release.inbox_seq)  # nobody else will ever want it
            case _:
                is_wanted = self.operations.deliver(release)
                self._closer.settled()
        return is_wanted

    def _consume(self, inbox_seq: int) -> None:
        if inbox_seq:  # on replay there is none
            self._consumed += (inbox_seq,)

    def _cancel(self, release: CancelRequested) -> None:
        if self.cancel_reason is None and self.root is not None:
            self.cancel_reason = msgspec.json.decode(release.reason, type=str)
            self.root.cancel(self.cancel_reason or None)
