"""The durable operations of a run: asked for, withdrawn, and answered by releases."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeGuard, cast

import msgspec

from romancy.core.calls import ActivityCall, Call, ReceiveCall, SendCall
from romancy.core.codec import check_size
from romancy.core.commands import CancelActivity, Command, RunActivity, Send
from romancy.core.events import (
    ActivityCompleted,
    ActivityFailed,
    ActivityRetried,
    Attempt,
    Envelope,
    MessageReceived,
    MessageSent,
    Release,
    SendOutcome,
)
from romancy.core.failures import decode_failure, exception_of
from romancy.errors import InstanceClosedError, InstanceNotFoundError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from romancy.replay.execution import Execution

_envelope = msgspec.json.Decoder(Envelope)
_attempt = msgspec.json.Decoder(Attempt)


class Operations:
    """Keep what the code has asked for and has no outcome yet, and answer it.

    Attributes:
        pending: The operations without an outcome by activity id, in the order in which they were asked for.
        commands: What the turn asks for so far, by activity id.
        armed: Completed activities that have a compensation, with their results, in the order of completion.
    """

    __slots__ = ("_receivers", "_run", "_withdrawn", "armed", "commands", "pending")

    def __init__(self, run: Execution) -> None:
        self.pending: dict[str, Call[object]] = {}
        self.commands: dict[str, Command] = {}
        self.armed: list[tuple[ActivityCall[object], object]] = []
        self._run = run
        self._receivers: dict[str, dict[str, ReceiveCall[object]]] = {}
        self._withdrawn: set[str] = set()

    # -- asking -----------------------------------------------------------------------------------------

    def request(self, call: Call[object]) -> asyncio.Future[object]:
        """Ask for an operation; its future is resolved by a release.

        Raises:
            CodecError: An argument can't be encoded or does not fit.
            PayloadTooLargeError: The arguments are over the limit.
            TypeError: The activity can't be called like this.
        """
        # The classes are asked for by identity: isinstance of an abstract class's child costs as much as the rest.
        cls = type(call)
        if cls is ActivityCall:
            self._ask_for_activity(cast("ActivityCall[object]", call))
        elif cls is SendCall:
            self._ask_for_send(cast("SendCall", call))
        future = self._run.loop.create_operation(call, self)
        call.future = future
        self.pending[call.activity_id] = call
        if cls is ReceiveCall:
            self._wait_for_message(cast("ReceiveCall[object]", call))
        return future

    def _ask_for_activity(self, call: ActivityCall[object]) -> None:
        run = self._run
        activity_id = call.activity_id
        journal = run.journal
        if journal is None or not journal.has_end_of(activity_id):
            # What has ended was encoded before, and is not run again.
            definition = call.definition
            subject = definition.arguments_subject
            call.arguments = definition.signature.bind_encode(run.codec, call.args, call.kwargs, subject)
            check_size(call.arguments, run.payload_limit, subject)
        call.attempt = 1
        call.not_before = 0
        call.scheduled_at = stamp = run.loop.stamp
        self.commands[activity_id] = RunActivity(activity_id, call, 1, 0, stamp)

    def _ask_for_send(self, call: SendCall) -> None:
        run = self._run
        message_id = f"{run.execution_id:x}/{run.run}/{call.activity_id}"
        self.commands[call.activity_id] = Send(call.activity_id, call.to, call.name, call.body, message_id)

    def _wait_for_message(self, call: ReceiveCall[object]) -> None:
        run = self._run
        self._receivers.setdefault(call.name, {})[call.activity_id] = call
        run.inbox.has_news = True
        if call.timeout is not None:
            timer = run.loop.call_later(call.timeout, self._time_out, call)
            call.future.add_done_callback(partial(_cancel_timer, timer))

    def cancelled(self, call: Call[object]) -> None:
        """Withdraw an operation whose wait was cancelled.

        What was asked for in this very turn is not asked for at all. A receive gives up its place. A send that is
        committed comes back with its outcome. An activity is told to stop, unless it has a compensation:
        then the run keeps an ear on it, since what it does may have to be undone.
        """
        if self._run.is_poisoned or self._retract(call):
            return
        if isinstance(call, ReceiveCall):
            self._receivers[call.name].pop(call.activity_id, None)
            self.pending.pop(call.activity_id, None)
        elif isinstance(call, ActivityCall) and call.definition.undo is None:
            self.drop(call)

    def drop(self, call: ActivityCall[object]) -> None:
        """Tell an activity to stop, and take no outcome of it any more."""
        if self._retract(call):
            return
        if self.pending.pop(call.activity_id, None) is not None:
            self._withdrawn.add(call.activity_id)
            self.commands[call.activity_id] = CancelActivity(call.activity_id)

    def _retract(self, call: Call[object]) -> bool:
        """Take back what was asked for in this very turn; False if it is older."""
        command = self.commands.get(call.activity_id)
        if command is None or (isinstance(command, RunActivity) and command.attempt > 1):
            return False
        del self.commands[call.activity_id]
        self.pending.pop(call.activity_id, None)
        return True

    def _time_out(self, call: ReceiveCall[object]) -> None:
        """Withdraw a receive whose time limit has come; a message that arrives later stays in the inbox."""
        if self.pending.get(call.activity_id) is call and not call.future.done():
            self.cancelled(call)
            call.future.set_exception(TimeoutError(f"no message on channel {call.name!r} within {call.timeout} s"))

    # -- what is outstanding ----------------------------------------------------------------------------

    def activities(self) -> list[ActivityCall[object]]:
        """Return the activities without an outcome, in the order in which they were asked for."""
        return [call for call in self.pending.values() if isinstance(call, ActivityCall)]

    def has_undoable(self) -> bool:
        """Tell whether an activity that has a compensation is without an outcome."""
        return any(call.definition.undo is not None for call in self.activities())

    def sends(self) -> Iterable[SendCall]:
        """Return the sends without an outcome."""
        return [call for call in self.pending.values() if isinstance(call, SendCall)]

    def receiver_of(self, channel: str) -> str | None:
        """Return the id of the receive that waits longest on a channel."""
        receivers = self._receivers.get(channel)
        return next(iter(receivers)) if receivers else None

    def was_withdrawn(self, activity_id: str | None) -> bool:
        """Tell whether the code has given an activity up: an outcome that is recorded nevertheless is passed over."""
        return activity_id in self._withdrawn

    def clear(self) -> None:
        """Forget everything."""
        self.pending.clear()
        self.commands.clear()
        self.armed.clear()
        self._receivers.clear()

    # -- answering --------------------------------------------------------------------------------------

    def complete(self, release: ActivityCompleted) -> bool:
        """Hand over an activity's result; False if nobody waits for it."""
        activity_id = release.activity_id
        call = self.pending.get(activity_id)
        if not isinstance(call, ActivityCall):
            return False
        definition = call.definition
        value = definition.signature.decode_result(self._run.codec, release.result, definition.result_subject)
        del self.pending[activity_id]
        future = _taken(call)
        if not future.done():
            future.set_result(value)
        if definition.undo is not None:
            self.armed.append((call, value))
        return True

    def fail(self, release: ActivityFailed) -> bool:
        """Hand over an activity's failure; False if nobody waits for it."""
        call = self.pending.get(release.activity_id)
        if not isinstance(call, ActivityCall):
            return False
        exc = exception_of(decode_failure(release.failure))
        del self.pending[release.activity_id]
        future = _taken(call)
        if not future.done():
            future.set_exception(exc)
        return True

    def retry(self, release: ActivityRetried) -> bool:
        """Note a failed attempt, and ask for the next; False if nobody waits for it."""
        activity_id = release.activity_id
        call = self.pending.get(activity_id)
        if not isinstance(call, ActivityCall):
            return False
        failed = _attempt.decode(release.attempt)
        call.attempt = failed.attempt + 1
        call.not_before = failed.retry_at
        self.commands[activity_id] = RunActivity(activity_id, call, call.attempt, call.not_before, call.scheduled_at)
        return True

    def receive(self, release: MessageReceived) -> bool:
        """Hand a message to the receive that the release names; False if there is no such receive."""
        call = self.pending.get(release.activity_id)
        if not isinstance(call, ReceiveCall):
            return False
        value = call.decode(bytes(_envelope.decode(release.envelope).body))
        del self.pending[release.activity_id]
        del self._receivers[call.name][release.activity_id]
        self._run.inbox.has_news = True
        _taken(call).set_result(value)
        return True

    def sent(self, release: MessageSent) -> bool:
        """Hand over what became of a send; False if nobody sent."""
        call = self.pending.pop(release.activity_id, None)
        if not isinstance(call, SendCall):
            return False
        future = _taken(call)
        if not future.done():
            exc = _send_error(SendOutcome(int(release.outcome)), call)
            if exc is None:
                future.set_result(None)
            else:
                future.set_exception(exc)
        return True


def is_result(release: Release) -> TypeGuard[ActivityCompleted | ActivityFailed | ActivityRetried]:
    """Tell whether a release holds what an activity did: it must not be lost if the turn fails."""
    return isinstance(release, ActivityCompleted | ActivityFailed | ActivityRetried)


def _taken(call: Call[object]) -> asyncio.Future[object]:
    """Return the future of a call that has its outcome; the two let go of each other, so that neither is garbage."""
    future = call.future
    del call.future
    return future


def _cancel_timer(timer: asyncio.TimerHandle, _: asyncio.Future[object]) -> None:
    timer.cancel()


def _send_error(outcome: SendOutcome, call: SendCall) -> Exception | None:
    match outcome:
        case SendOutcome.SENT:
            return None
        case SendOutcome.CLOSED:
            return InstanceClosedError(f"instance {call.to!r} has ended: it takes no message on channel {call.name!r}")
        case SendOutcome.NOT_FOUND:
            return InstanceNotFoundError(f"no instance {call.to!r} to send to on channel {call.name!r}")
