"""Noting what a turn does, for whoever watches: told once its commit is acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypedDict

import msgspec

from romancy.core.calls import ActivityCall, CallKind, RequestCall
from romancy.core.events import Attempt, Envelope, EventKind, SendOutcome
from romancy.core.failures import decode_failure
from romancy.core.hooks import ActivityEvent, MessageEvent, TimerEvent
from romancy.replay.undoing import is_compensation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.core.calls import ReceiveCall
    from romancy.core.events import Event, Note
    from romancy.core.failures import Failure
    from romancy.core.tracing import TraceContext
    from romancy.replay.execution import Execution
    from romancy.replay.futures import ReplayTimerHandle

Observation: TypeAlias = "ActivityEvent | TimerEvent | MessageEvent"


_SENT = b"%d" % SendOutcome.SENT
_envelope_or_none = msgspec.json.Decoder(Envelope | None)


class _Now(TypedDict):
    stamp: int
    is_replayed: bool


class Observed(NamedTuple):
    """The method of `romancy.core.hooks.Hooks` that is to be called, and with what."""

    method: str
    event: Observation


class Observer:
    """Note what happens in a run. Nothing here may change what a turn comes to.

    What is recorded without having been gone on from (a result, the outcome of a send) is told when that is
    acknowledged. The turn that goes on from it may be computed by several owners, one after the other: what it asks for
    is told by the one that has recorded it.

    Attributes:
        told: What has been noted and not told yet, in order: of the turn that is uncommitted, and of a replay.
    """

    __slots__ = ("_has_begun", "_has_replays", "_is_known", "_is_live", "_run", "_trace", "told")

    def __init__(
        self, run: Execution, trace: TraceContext, *, has_replays: bool = False, has_begun: bool = False
    ) -> None:
        """Prepare.

        Args:
            run: What is observed.
            trace: Where it stands in a trace.
            has_replays: Note what a replay goes through too.
            has_begun: The first turn was computed before, whether anything is recorded of it or not.
        """
        self._run = run
        self._trace = trace
        self._has_replays = has_replays
        self._has_begun = has_begun
        self._is_live = False
        self._is_known = False
        self.told: list[Observed] = []

    def take(self) -> list[Observed]:
        """Return what has been noted, once."""
        told, self.told = self.told, []
        return told

    # -- what is new ------------------------------------------------------------------------------------

    def begun(self, *, is_recorded: bool) -> None:
        """Note that a live turn has done what comes before its first release."""
        if not (is_recorded and self._has_begun):
            self._is_live = True

    def releasing(self, *, is_recorded: bool) -> None:
        """Note that a release is about to be handed over in a live turn; ``released`` must follow."""
        self._is_known = is_recorded
        self._is_live = self._is_live or not is_recorded

    def released(self) -> None:
        """Note that the release was handed over: what follows is its consequence."""
        self._is_known = False

    def recorded(self, notes: Iterable[Note | Event]) -> None:
        """Note what is recorded now, or is about to be, and is gone on from later."""
        pending = self._run.operations.pending
        for note in notes:
            self._is_live = True
            call = pending.get(note.activity_id or "")
            if isinstance(call, ActivityCall):
                self._recorded(call, EventKind(note.kind), note.payload or b"")
            elif isinstance(call, RequestCall) and note.payload == _SENT:
                self.sent(call)

    def _recorded(self, call: ActivityCall[object], kind: EventKind, payload: bytes) -> None:
        match kind:
            case EventKind.ACTIVITY_COMPLETED:
                self.activity("completed", call, is_certain=True)
            case EventKind.ACTIVITY_FAILED:
                self.activity("failed", call, failure=decode_failure(payload), is_certain=True)
            case EventKind.ACTIVITY_RETRIED:
                failed = msgspec.json.decode(payload, type=Attempt)
                failure = decode_failure(bytes(failed.failure))
                attempt, retry_at = failed.attempt, failed.retry_at
                self.activity("retried", call, attempt=attempt, failure=failure, retry_at=retry_at, is_certain=True)
            case _:
                pass

    def blocked(self, notes: Iterable[Note]) -> None:
        """Leave out what the turn has done, but for the results that are kept of it."""
        kept = {note.activity_id: note for note in notes}
        outcomes = [
            each for each in self.take() if isinstance(each.event, ActivityEvent) and each.event.activity_id in kept
        ]
        self.told = outcomes
        told = {each.event.activity_id for each in outcomes if isinstance(each.event, ActivityEvent)}
        self.recorded(note for note in kept.values() if note.activity_id not in told)

    @property
    def _is_replayed(self) -> bool:
        run = self._run
        return self._is_known or (not self._is_live and (run.is_replaying or self._has_begun))

    @property
    def _is_silent(self) -> bool:
        return self._run.is_poisoned or (self._is_replayed and not self._has_replays)

    # -- activities -------------------------------------------------------------------------------------

    def activity(
        self,
        what: str,
        call: ActivityCall[object],
        *,
        attempt: int | None = None,
        failure: Failure | None = None,
        retry_at: int | None = None,
        is_certain: bool = False,
    ) -> None:
        """Note that an activity, or compensation, is ``completed``, ``failed``, ``retried`` or ``cancelled``.

        With ``is_certain`` it is, whatever becomes of the run.
        """
        if self._is_silent and not is_certain:
            return
        is_undoing = is_compensation(call)
        kind = "compensation" if is_undoing and what in {"completed", "failed"} else "activity"
        event = ActivityEvent(
            stamp=self._run.loop.stamp,
            is_replayed=self._is_replayed,
            activity_id=call.activity_id,
            name=call.name,
            attempt=attempt or call.attempt,
            scheduled_stamp=call.scheduled_at,
            is_compensation=is_undoing,
            failure=failure,
            retry_stamp=retry_at,
        )
        self.told.append(Observed(f"{kind}_{what}", event))

    # -- timers -----------------------------------------------------------------------------------------

    def timer(self, what: str, handle: ReplayTimerHandle) -> None:
        """Note that a timer was ``started``, or has ``fired``."""
        if self._is_silent:
            return
        run = self._run
        event = TimerEvent(
            stamp=run.loop.stamp,
            is_replayed=self._is_replayed,
            timer_id=handle.timer_id,
            deadline_stamp=handle.deadline,
        )
        self.told.append(Observed(f"timer_{what}", event))

    # -- messages ---------------------------------------------------------------------------------------

    def receive(self, what: str, call: ReceiveCall[object]) -> None:
        """Note that a message is ``waited_for``, or has ``timed_out``."""
        if not self._is_silent:
            self._message(what, MessageEvent(channel=call.name, activity_id=call.activity_id, **self._now()))

    def received(self, channel: str, activity_id: str, envelope: Envelope) -> None:
        """Note that a message was given to the code."""
        if self._is_silent:
            return
        event = MessageEvent(
            channel=channel,
            activity_id=activity_id,
            message_id=envelope.message_id,
            sender=envelope.sender,
            headers=envelope.headers,
            **self._now(),
        )
        self._message("received", event)

    def tried(self, channel: str, found: bytes) -> None:
        """Note that a message was asked for without waiting, and may have been given to the code."""
        envelope = _envelope_or_none.decode(found)
        if envelope is not None:
            self.received(channel, "", envelope)

    def sent(self, call: RequestCall[object]) -> None:
        """Note that a request was granted; tells of it if it was to send a message."""
        if self._is_silent or call.kind not in {CallKind.SEND, CallKind.PUBLISH}:
            return
        run = self._run
        event = MessageEvent(
            channel=call.name,
            activity_id=call.activity_id,
            message_id=run.names.message_id(call.activity_id),
            to=call.to,
            sender=run.instance_id,
            headers=self._trace.headers(),
            **self._now(),
        )
        self._message("sent", event)

    def _now(self) -> _Now:
        return {"stamp": self._run.loop.stamp, "is_replayed": self._is_replayed}

    def _message(self, what: str, event: MessageEvent) -> None:
        self.told.append(Observed(f"message_{what}", event))
