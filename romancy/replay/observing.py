"""Noting what a turn does, for whoever watches: told once its commit is acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypedDict

import msgspec

from romancy.core.calls import CallKind
from romancy.core.events import Envelope
from romancy.core.hooks import ActivityEvent, MessageEvent, TimerEvent
from romancy.replay.undoing import is_compensation

if TYPE_CHECKING:
    from romancy.core.calls import ActivityCall, ReceiveCall, RequestCall
    from romancy.core.failures import Failure
    from romancy.core.tracing import TraceContext
    from romancy.replay.execution import Execution
    from romancy.replay.futures import ReplayTimerHandle

Observation: TypeAlias = "ActivityEvent | TimerEvent | MessageEvent"


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

    Attributes:
        is_live: The run is past what it has done before: what is released to it now is so for the first time.
        told: What has been noted and not told yet, in order: of the turn that is uncommitted, and of a replay.
    """

    __slots__ = ("_has_begun", "_has_replays", "_run", "_trace", "is_live", "told")

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
        self.is_live = False
        self.told: list[Observed] = []

    def take(self) -> list[Observed]:
        """Return what has been noted, once."""
        told, self.told = self.told, []
        return told

    @property
    def _is_replayed(self) -> bool:
        run = self._run
        return not self.is_live and (run.is_replaying or (self._has_begun and run.turn <= 1))

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
    ) -> None:
        """Note that an activity, or compensation, is ``completed``, ``failed``, ``retried`` or ``cancelled``."""
        if self._is_silent:
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
            message_id=run.message_id(call.activity_id),
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
