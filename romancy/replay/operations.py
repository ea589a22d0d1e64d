"""The durable operations of a run: asked for, withdrawn, and answered by releases."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeGuard, assert_never, cast

import msgspec

from romancy.core.calls import ActivityCall, Call, CallKind, ReceiveCall, RequestCall, WorkflowCall
from romancy.core.codec import check_size
from romancy.core.commands import CancelActivity, Command, RunActivity
from romancy.core.events import (
    ActivityAnswered,
    ActivityCompleted,
    ActivityFailed,
    ActivityHandedOver,
    ActivityRetried,
    Answered,
    Attempt,
    ChildClosed,
    Envelope,
    EventKind,
    HandOver,
    MessageReceived,
    OutsideAnswer,
    Release,
)
from romancy.core.failures import decode_failure, exception_of
from romancy.core.requests import CancelChild, ChildOutcome, EndWait, Unsubscribe, Wait
from romancy.errors import InstanceAlreadyExistsError, RomancyError
from romancy.replay.children import Children, check_started, settle
from romancy.replay.delays import Delays

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from romancy.core.events import Arrival
    from romancy.replay.delays import Delay
    from romancy.replay.execution import Execution

_envelope = msgspec.json.Decoder(Envelope)
_attempt = msgspec.json.Decoder(Attempt)
_hand_over = msgspec.json.Decoder(HandOver)
_answer = msgspec.json.Decoder(OutsideAnswer)
_SHORTEST_TIMEOUT = 0.000_001


class Operations:
    """Keep what the code has asked for and has no outcome yet, and answer it.

    Attributes:
        pending: The operations without an outcome by activity id, in the order in which they were asked for.
        underway: Of these, the activities that are in the owner's memory alone: an attempt runs or is to begin at once.
        delays: And the other activities, which back off or are handed over.
        commands: What the turn asks for so far, by activity id.
        children: The children that the code holds.
        subscriptions: The channels of the open subscriptions, by mailbox.
    """

    __slots__ = (
        "_receivers",
        "_run",
        "_withdrawn",
        "children",
        "commands",
        "delays",
        "pending",
        "subscriptions",
        "underway",
    )

    def __init__(self, run: Execution) -> None:
        self.pending: dict[str, Call[object]] = {}
        self.underway: dict[str, ActivityCall[object]] = {}
        self.delays = Delays()
        self.commands: dict[str, Command] = {}
        self.children = Children(run)
        self.subscriptions: dict[str, str] = {}
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
            RuntimeError: The subscription of a receive is closed.
        """
        # The classes are asked for by identity: isinstance of an abstract class's child costs as much as the rest.
        cls = type(call)
        call.scheduled_at = self._run.loop.stamp
        if cls is ActivityCall:
            self._ask_for_activity(cast("ActivityCall[object]", call))
        elif cls is RequestCall:
            self.commands[call.activity_id] = cast("RequestCall[object]", call).ask(call.activity_id)
        elif cls is WorkflowCall:
            child = cast("WorkflowCall[object]", call)
            self.commands[call.activity_id] = self.children.request(child, call.activity_id)
        elif cls is ReceiveCall:
            self._check_open(cast("ReceiveCall[object]", call))
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
        if run.names.mark:
            call.mark = run.names.suffix
        self.commands[activity_id] = RunActivity(activity_id, call, 1, 0, call.scheduled_at)
        self.underway[activity_id] = call
        if call.definition.is_armed_early:
            run.undoing.attempted(call)

    def _check_open(self, call: ReceiveCall[object]) -> None:
        """Refuse a receive that was made in a subscription's block and is awaited behind it.

        Nobody would take back what such a receive is handed and does not read.
        """
        if call.mailbox != call.name and call.mailbox not in self.subscriptions:
            raise _closed(call)

    def _wait_for_message(self, call: ReceiveCall[object]) -> None:
        run = self._run
        self._receivers.setdefault(call.mailbox, {})[call.activity_id] = call
        run.inbox.has_news = True
        if run.observer is not None:
            run.observer.receive("waited_for", call)
        if call.is_competing:
            self.commands[call.activity_id] = Wait(call.activity_id, call.name, call.mailbox)
        if call.timeout is not None:
            # Not at once, even if it is 0: what has come already comes before every time limit.
            timer = run.loop.call_later(max(call.timeout, _SHORTEST_TIMEOUT), self._time_out, call)
            call.future.add_done_callback(partial(_cancel_timer, timer))

    def cancelled(self, call: Call[object]) -> None:
        """Withdraw an operation whose wait was cancelled.

        What was asked for in this very turn is not asked for at all. A receive gives up its place. A request that is
        committed comes back with its outcome. A child that was awaited is asked to cancel. An activity is told to stop,
        unless it has a compensation: then the run keeps an ear on it, since what it does may have to be undone.
        """
        if self._run.is_poisoned:
            return
        if isinstance(call, ReceiveCall):
            self._end_receive(call)
        elif self._retract(call):
            return
        elif isinstance(call, WorkflowCall):
            reason = "its parent does not wait for it any more"
            self._withdraw(call.activity_id, CancelChild(call.activity_id, reason, self._run.turn))
        elif isinstance(call, ActivityCall) and call.definition.undo is None:
            self.drop(call)

    def drop(self, call: ActivityCall[object]) -> None:
        """Tell an activity to stop, and take no outcome of it any more."""
        if self._retract(call):
            return
        if self._withdraw(call.activity_id, CancelActivity(call.activity_id)) and self._run.observer is not None:
            self._run.observer.activity("cancelled", call)

    def _withdraw(self, activity_id: str, command: Command) -> bool:
        if self.pending.pop(activity_id, None) is None:
            return False
        self._rest(activity_id)
        self._withdrawn.add(activity_id)
        self.commands[activity_id] = command
        return True

    def _end_receive(self, call: ReceiveCall[object]) -> None:
        """Take a receive out of what is pending; a competing one also in the database, if it is known there."""
        activity_id = call.activity_id
        self.pending.pop(activity_id, None)
        receivers = self._receivers.get(call.mailbox)
        if receivers is not None:
            receivers.pop(activity_id, None)
            if not receivers:
                del self._receivers[call.mailbox]
        if call.is_competing and self.commands.pop(activity_id, None) is None:
            self.commands[activity_id] = EndWait(activity_id)

    def unsubscribe(self, mailbox: str) -> None:
        """Close a subscription; receives that still wait on it are told so."""
        if self._run.is_poisoned or self.subscriptions.pop(mailbox, None) is None:
            return
        for call in list(self._receivers.get(mailbox, {}).values()):
            self._end_receive(call)
            settle(_taken(call), None, _closed(call))
        self.commands[f"unsubscribe {mailbox}"] = Unsubscribe(mailbox)
        self._run.inbox.drop(mailbox)

    def retract_requests(self) -> None:
        """Ask nothing of the database in this turn: it ends the run, and nobody would hear the outcome."""
        for call in self.requested():
            self._retract(call)

    def cancel_child(self, activity_id: str, reason: str) -> None:
        """Ask a child that is held to cancel; nothing if it has ended, as far as is known."""
        child = self.children.held.get(activity_id)
        if child is not None and not child.closed.done() and not self._run.is_poisoned:
            self.commands[f"cancel {activity_id}"] = CancelChild(activity_id, reason, self._run.turn)

    def _retract(self, call: Call[object]) -> bool:
        """Take back what was asked for in this very turn; False if it is older."""
        command = self.commands.get(call.activity_id)
        if command is None or (isinstance(command, RunActivity) and command.attempt > 1):
            return False
        del self.commands[call.activity_id]
        self.pending.pop(call.activity_id, None)
        self._rest(call.activity_id)
        if isinstance(call, ActivityCall) and call.definition.is_armed_early:
            self._run.undoing.retracted(call)
        return True

    def _rest(self, activity_id: str) -> None:
        """Note that nothing of an activity is to be done or waited for any more."""
        if self.underway.pop(activity_id, None) is None:
            self.delays.discard(activity_id)

    def begin_due(self, now: int) -> list[tuple[Delay, ActivityCall[object]]]:
        """Take what is due out of its delay, earliest first: it goes on in its owner's memory."""
        found: list[tuple[Delay, ActivityCall[object]]] = []
        for delay in self.delays.take_due(now):
            call = cast("ActivityCall[object]", self.pending[delay.activity_id])
            self.underway[delay.activity_id] = call
            found.append((delay, call))
        return found

    def _time_out(self, call: ReceiveCall[object]) -> None:
        """Withdraw a receive whose time limit has come; a message that arrives later stays in the inbox."""
        if self.pending.get(call.activity_id) is call and not call.future.done():
            self.cancelled(call)
            if self._run.observer is not None:
                self._run.observer.receive("timed_out", call)
            call.future.set_exception(TimeoutError(f"no message on channel {call.name!r} within {call.timeout} s"))

    # -- what is outstanding ----------------------------------------------------------------------------

    def activities(self) -> list[ActivityCall[object]]:
        """Return the activities without an outcome, in the order in which they were asked for."""
        return [call for call in self.pending.values() if isinstance(call, ActivityCall)]

    def requested(self) -> Iterable[Call[object]]:
        """Return what has been asked of the database, and is not ended by a release of its own."""
        return [call for call in self.pending.values() if isinstance(call, RequestCall | WorkflowCall)]

    def receiver_of(self, mailbox: str) -> str | None:
        """Return the id of the receive that waits longest on a mailbox."""
        receivers = self._receivers.get(mailbox)
        return next(iter(receivers)) if receivers else None

    def was_withdrawn(self, activity_id: str | None) -> bool:
        """Tell whether the code has given an activity up: an outcome that is recorded nevertheless is passed over."""
        return activity_id in self._withdrawn

    def clear(self) -> None:
        """Forget everything."""
        self.pending.clear()
        self.underway.clear()
        self.delays.clear()
        self.commands.clear()
        self.children.held.clear()
        self._receivers.clear()

    # -- answering --------------------------------------------------------------------------------------

    def deliver(
        self, release: ActivityCompleted | ActivityFailed | ActivityRetried | ActivityHandedOver | Answered
    ) -> bool:
        """Hand over what became of an activity or a request; False if nobody waits for it."""
        match release:
            case ActivityCompleted():
                return self._complete(release)
            case ActivityFailed():
                return self._fail(release)
            case ActivityRetried():
                return self._retry(release)
            case ActivityHandedOver():
                return self._hand_over(release)
            case Answered():
                return self._answer(release)
            case _:
                assert_never(release)

    def _complete(self, release: ActivityCompleted) -> bool:
        activity_id = release.activity_id
        call = self.pending.get(activity_id)
        if not isinstance(call, ActivityCall):
            return False
        definition = call.definition
        value = definition.signature.decode_result(self._run.codec, release.result, definition.result_subject)
        del self.pending[activity_id]
        if self.underway.pop(activity_id, None) is None:  # as `_rest` does: this is on the hottest path
            self.delays.discard(activity_id)
            self.commands.pop(activity_id, None)  # another attempt that this very turn has asked for
        future = _taken(call)
        if not future.done():
            future.set_result(value)
        if definition.undo is not None:
            self._run.undoing.completed(call, value)
        if self._run.observer is not None:
            self._run.observer.activity("completed", call)
        return True

    def _fail(self, release: ActivityFailed) -> bool:
        call = self.pending.get(release.activity_id)
        if not isinstance(call, ActivityCall) or release.attempt not in {0, call.attempt}:
            return False
        failure = decode_failure(release.failure)
        exc = exception_of(failure)
        del self.pending[release.activity_id]
        self._rest(release.activity_id)
        future = _taken(call)
        if not future.done():
            future.set_exception(exc)
        if call.definition.undo is not None:
            self._run.undoing.failed(call, failure)
        if self._run.observer is not None:
            self._run.observer.activity("failed", call, failure=failure)
        return True

    def _retry(self, release: ActivityRetried) -> bool:
        activity_id = release.activity_id
        call = self.pending.get(activity_id)
        if not isinstance(call, ActivityCall):
            return False
        failed = _attempt.decode(release.attempt)
        if failed.attempt != call.attempt:
            return False
        if self._run.observer is not None:
            failure = decode_failure(bytes(failed.failure))
            self._run.observer.activity("retried", call, failure=failure, retry_at=failed.retry_at)
        call.attempt += 1
        call.not_before = failed.retry_at
        _keep_details(call, failed.details)
        self.underway.pop(activity_id, None)
        self.delays.put(activity_id, failed.retry_at, is_handed_over=False)
        self.commands[activity_id] = command_of(call)
        return True

    def _hand_over(self, release: ActivityHandedOver) -> bool:
        call = self.pending.get(release.activity_id)
        if not isinstance(call, ActivityCall):
            return False
        handed = _hand_over.decode(release.hand_over)
        if handed.attempt != call.attempt or self.delays.is_handed_over(release.activity_id):
            return False
        _keep_details(call, handed.details)
        self.underway.pop(release.activity_id, None)
        self.delays.put(release.activity_id, handed.deadline or None, is_handed_over=True)
        return True

    def answered_by(self, arrival: ActivityAnswered) -> ActivityCall[object] | None:
        """Return the activity that an answer from outside is for; None if the attempt that it means is over."""
        answer = _answer.decode(arrival.answer)
        call = self.pending.get(answer.activity_id)
        if not isinstance(call, ActivityCall) or (answer.run, answer.attempt) != (self._run.run, call.attempt):
            return None
        return call

    def answer(self, arrival: ActivityAnswered) -> Release | None:
        """Return what an answer from outside comes to; None if the attempt that it means is over.

        An attempt whose body has not ended is answered too: whoever is outside may be the faster one.
        """
        call = self.answered_by(arrival)
        if call is None:
            return None
        answer = _answer.decode(arrival.answer)
        activity_id = answer.activity_id
        if not self.delays.is_handed_over(activity_id):
            self.commands[activity_id] = CancelActivity(activity_id, is_over=not bytes(answer.failure))
        if bytes(answer.failure):
            return self._run.after_failure(command_of(call), bytes(answer.failure), is_final=answer.is_final)
        return ActivityCompleted(activity_id, bytes(answer.result))

    def receive(self, release: MessageReceived) -> bool:
        """Hand a message to the receive that the release names; False if there is no such receive."""
        call = self.pending.get(release.activity_id)
        if not isinstance(call, ReceiveCall):
            return False
        envelope = _envelope.decode(release.envelope)
        value = call.read(envelope)
        self._end_receive(call)
        if self._run.observer is not None:
            self._run.observer.received(call.name, call.activity_id, envelope)
        self._run.inbox.has_news = True
        _taken(call).set_result(value)
        return True

    def _answer(self, release: Answered) -> bool:
        call = self.pending.get(release.activity_id)
        if isinstance(call, WorkflowCall):
            try:
                check_started(release.outcome, call)
                call.is_started = True
            except InstanceAlreadyExistsError as exc:
                del self.pending[release.activity_id]
                settle(_taken(call), None, exc)
            return True
        if not isinstance(call, RequestCall):
            return False
        del self.pending[release.activity_id]
        future = _taken(call)
        value: object = None
        error = None
        try:
            value = call.read(release.outcome)
        except RomancyError as exc:
            error = exc
        if self._run.observer is not None and error is None:
            self._run.observer.sent(call)
        if future.cancelled() and error is None:
            self._undo_request(call, release)
        settle(future, value, error)
        return True

    def _undo_request(self, call: RequestCall[object], release: Answered) -> None:
        """Take back what was opened for somebody who does not wait for it any more.

        An instance that was only attached to is left alone: it belongs to whoever has started it.
        """
        if release.kind is EventKind.SUBSCRIBED:
            self.unsubscribe(msgspec.json.decode(release.outcome, type=str))
        elif call.kind is CallKind.CHILD and int(release.outcome) == ChildOutcome.STARTED:
            self.cancel_child(call.activity_id, "its parent does not wait for it any more")

    def child_closed(self, release: ChildClosed) -> bool:
        """Hand over a child's end; False if nobody can want it."""
        if not self.children.is_of_this_run(release):
            return False
        call = self.pending.get(release.activity_id)
        if not isinstance(call, WorkflowCall):
            return self.children.close_held(release)
        outcome = self.children.outcome(call.child_id, call.definition, release)
        del self.pending[release.activity_id]
        settle(_taken(call), *outcome)
        return True


def is_result(
    release: Arrival,
) -> TypeGuard[ActivityCompleted | ActivityFailed | ActivityRetried | ActivityHandedOver]:
    """Tell whether a release holds what an activity did: it must not be lost if the turn fails."""
    return isinstance(release, ActivityCompleted | ActivityFailed | ActivityRetried | ActivityHandedOver)


def command_of(call: ActivityCall[object]) -> RunActivity:
    """Return the command that runs an activity's next attempt."""
    details: bytes | None = getattr(call, "details", None)
    return RunActivity(call.activity_id, call, call.attempt, call.not_before, call.scheduled_at, details)


def _keep_details(call: ActivityCall[object], details: msgspec.Raw) -> None:
    if encoded := bytes(details):
        call.details = encoded


def _taken(call: Call[object]) -> asyncio.Future[object]:
    """Return the future of a call that has its outcome; the two let go of each other, so that neither is garbage."""
    future = call.future
    del call.future
    return future


def _closed(call: ReceiveCall[object]) -> RuntimeError:
    return RuntimeError(f"the subscription to channel {call.name!r} was closed: receive inside of its block")


def _cancel_timer(timer: asyncio.TimerHandle, _: asyncio.Future[object]) -> None:
    timer.cancel()
