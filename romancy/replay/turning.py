"""Computing the turns of a run: what is released, in its order, and what comes of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from romancy.core.events import (
    ActivityAnswered,
    CancelRequested,
    ChildClosed,
    Event,
    MessageReceived,
    Note,
    Release,
    Resumed,
    TimerFired,
)
from romancy.core.failures import failure_of
from romancy.replay.journal import Journal, RecordedTurn, missing, note_of, turns_of, unreached
from romancy.replay.loop import TurnInterrupted
from romancy.replay.operations import is_result
from romancy.replay.resuming import override, resume
from romancy.replay.turn import RunBlocked, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from romancy.core.events import Arrival
    from romancy.replay.closing import Closer
    from romancy.replay.execution import Execution
    from romancy.replay.guard import Guard


class Turning:
    """Compute turns of a run, live or recorded, by the same routine: release, drain, next.

    Attributes:
        notes: What the turn that is being computed has recorded so far.
        consumed: The inbox rows that it has released so far.
        fatal: Why the run can't go on, if it can't.
    """

    __slots__ = ("_closer", "_run", "_todo", "consumed", "fatal", "notes")

    def __init__(self, run: Execution, closer: Closer) -> None:
        self._run = run
        self._closer = closer
        self._todo: deque[Arrival] = deque()
        self.notes: list[Note] = []
        self.consumed: tuple[int, ...] = ()
        self.fatal: BaseException | None = None

    def activate(self, releases: Sequence[Arrival], stamp: int, guard: Guard | None, *, is_recorded: bool) -> Turn:
        """Compute a live turn; see `Execution.activate`."""
        run = self._run
        number = run.turn + 1
        loop = run.loop
        before = loop.stamp
        if stamp > before:
            loop.set_stamp(stamp)
        self._run_turn(releases, is_recorded, guard)
        if self.fatal is not None:
            blocked = failure_of(self.fatal)
            if is_recorded:
                return Turn(number, loop.stamp, [], len(releases), (), [], None, blocked)
            kept = self._kept(releases)
            return Turn(number, loop.stamp, kept, len(kept), (), [], None, blocked)
        if run.closing is not None:
            self.notes.append(run.closing.note)
            loop.drop_done()
        elif run.turn != number:
            loop.set_stamp(before)  # nothing has happened, and a replay will not know of it
        commands = list(run.operations.commands.values())
        return Turn(number, loop.stamp, self.notes, 0, self.consumed, commands, run.closing, None, run.take_shown())

    def _kept(self, releases: Sequence[Arrival]) -> list[Note]:
        """Return, of the releases of a turn that failed, the results that must not be lost with it."""
        run = self._run
        delivered = {note.activity_id for note in self.notes}
        return [
            note_of(release)
            for release in releases
            if is_result(release)
            and (
                release.activity_id in delivered
                or release.activity_id in run.operations.pending
                or run.operations.was_withdrawn(release.activity_id)  # in this turn, which has not happened
            )
        ]

    def replay(
        self, events: Sequence[Event], drained_seq: int, started_at: int, guard: Guard | None
    ) -> RecordedTurn | None:
        """Compute the turns of the past; see `Execution.replay`."""
        run = self._run
        split = next((index for index, event in enumerate(events) if event.seq >= drained_seq), len(events))
        done, ahead = events[:split], events[split:]
        pending = next((turn for turn in turns_of(ahead) if turn.releases), None)
        turns = turns_of(done)
        if not turns and (pending is None or pending.number == 1):
            return pending
        if not turns or turns[0].number != 1:
            turns.insert(0, RecordedTurn(1, started_at, []))
        run.journal = Journal(done, ahead)
        run.loop.is_muted = True
        for turn in turns:
            run.journal.turn = turn.number
            run.loop.set_stamp(turn.stamp)
            self._run_turn(turn.releases, True, guard)  # noqa: FBT003 - the routine that a live turn uses
            if self.fatal is not None:
                raise self.fatal
            run.turn = turn.number
        run.journal.finish()
        resumed = next((each for each in pending.releases if isinstance(each, Resumed)), None) if pending else None
        if resumed is not None:
            override(run, resumed)  # before anybody begins what is outstanding
        else:
            for call in run.operations.requested():
                if not run.journal.has_end_of(call.activity_id):  # the outcome is recorded with the asking
                    raise missing(call.activity_id, "?")
        run.journal = None
        run.loop.is_muted = False
        return pending

    def take_message(self, mailbox: str) -> MessageReceived | None:
        """Take a mailbox's oldest message, though no receive waits for it; None if none has come before this turn."""
        message = self._run.inbox.take_message(mailbox)
        if message is None:
            for index, release in enumerate(self._todo):
                if isinstance(release, MessageReceived) and release.mailbox == mailbox:
                    del self._todo[index]
                    return release
        return message

    def _run_turn(self, releases: Sequence[Arrival], is_recorded: bool, guard: Guard | None) -> None:  # noqa: FBT001
        """Do a turn's work inside the loop; what makes the run impossible to go on with is kept in ``fatal``."""
        run = self._run
        loop = run.loop
        self.notes, self.consumed, run.operations.commands = [], (), {}
        if guard is not None:
            guard.arm(loop)
        try:
            loop.__enter__()
            self._turn(releases, is_recorded)
        except RunBlocked as exc:
            self.fatal = self.fatal or exc.cause
        except (Exception, TurnInterrupted, SystemExit) as exc:  # noqa: BLE001 - any error blocks this run, and no other
            self.fatal = self.fatal or exc
        finally:
            while True:
                try:
                    if guard is not None:
                        guard.disarm(loop)
                    loop.__exit__()
                    break
                except TurnInterrupted as exc:  # it struck while it was being disarmed
                    self.fatal = self.fatal or exc

    def _turn(self, releases: Sequence[Arrival], is_recorded: bool) -> None:  # noqa: FBT001
        run = self._run
        number = run.turn + 1
        todo: deque[Arrival] = deque(releases)
        if run.root is None:
            run.turn = number
            if not is_recorded:
                self._todo = todo  # the messages that came before the start can be taken from the first line on
            self._start()
            self._drain()
        if run.observer is not None and run.journal is None:
            run.observer.begun(is_recorded=is_recorded)
        if is_recorded:
            self._follow(todo, number)
        if run.journal is None:
            self._go_on(todo, number)

    def _follow(self, todo: deque[Arrival], number: int) -> None:
        """Release what history says, in its order."""
        run = self._run
        while todo and self.fatal is None:
            release = todo.popleft()
            if isinstance(release, ActivityAnswered):
                msg = "an answer from outside is not recorded as such"
                raise TypeError(msg)
            if run.closing is None and self._deliver(release, is_recorded=True):
                run.turn = number
                self._drain()
                continue
            activity_id = note_of(release).activity_id
            # What ends in one turn was recorded as such, though the first of it may end the run.
            is_too_late = run.closing is not None and activity_id in run.operations.pending
            if not is_too_late and not run.operations.was_withdrawn(activity_id):
                raise unreached(activity_id or "cancel", run.journal.hint() if run.journal is not None else "")

    def _go_on(self, todo: deque[Arrival], number: int) -> None:
        """Release what has come, and messages of the inbox as soon as a receive waits for them."""
        run = self._run
        self._todo = todo
        inbox = run.inbox
        while self.fatal is None and run.closing is None:
            release: Release | None = inbox.take(run.operations) if inbox.has_news else None
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
                run.turn = number
                self.notes.append(note_of(release))
                self._drain()
        inbox.extend(release for release in todo if isinstance(release, MessageReceived | CancelRequested))
        # The run has ended: nobody waits for them any more.
        self.consumed += tuple(
            arrival.inbox_seq for arrival in todo if isinstance(arrival, ActivityAnswered | ChildClosed)
        )

    def _answer(self, arrival: ActivityAnswered) -> Release | None:
        """Return what an answer from outside comes to; its row is consumed, whatever that is."""
        self.consumed += (arrival.inbox_seq,)
        return self._run.operations.answer(arrival)

    def _start(self) -> None:
        run = self._run
        signature = run.workflow.signature
        args, kwargs = signature.decode_arguments(run.codec, run.input, run.workflow.arguments_subject)
        run.root = run.loop.spawn(run.workflow.fn(*args, **kwargs), "", "root")

    def _drain(self) -> None:
        run = self._run
        run.loop.drain()
        self._closer.advance()
        while run.undoing.waits and run.closing is None and run.loop.poison is None and run.undoing.settle():
            run.loop.drain()
            self._closer.advance()

    # -- releases ---------------------------------------------------------------------------------------

    def _deliver(self, release: Release, *, is_recorded: bool = False) -> bool:
        """Hand a release to whoever waits for it; False if nobody does."""
        observer = self._run.observer
        if observer is None or self._run.journal is not None:
            return self._hand_over(release)
        observer.releasing(is_recorded=is_recorded)
        try:
            return self._hand_over(release)
        finally:
            observer.released()

    def _hand_over(self, release: Release) -> bool:
        run = self._run
        match release:
            case TimerFired(timer_id):
                handle = run.timers.take(timer_id)
                is_wanted = handle is not None
                if handle is not None:
                    handle._scheduled = False  # type: ignore[attr-defined] # it is not to be cancelled any more
                    run.loop.ready.append(handle)
                    if run.observer is not None:
                        run.observer.timer("fired", handle)
            case CancelRequested():
                is_wanted = True
                self._consume(release.inbox_seq)
                run.limits.cancel(release)
            case MessageReceived():
                is_wanted = run.operations.receive(release)
                if is_wanted:
                    self._consume(release.inbox_seq)
            case ChildClosed():
                is_wanted = run.operations.child_closed(release)
                self._consume(release.inbox_seq)  # nobody else will ever want it
            case Resumed():
                is_wanted = True
                resume(run, release)
            case _:
                is_wanted = run.operations.deliver(release)
        return is_wanted

    def _consume(self, inbox_seq: int) -> None:
        if inbox_seq:  # on replay there is none
            self.consumed += (inbox_seq,)
