"""What happens in workers and clients, for whoever watches: values, and the methods that are told of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar, Literal, Protocol

import msgspec

from romancy.core.clock import MICROSECONDS
from romancy.core.failures import Failure
from romancy.core.tracing import TraceContext


def _instant(stamp: int) -> datetime:
    return datetime.fromtimestamp(stamp / MICROSECONDS, UTC)


class RunRef(msgspec.Struct, frozen=True, gc=False):
    """The run that something happens in.

    Attributes:
        instance_id: The instance's id.
        execution_id: The start's random number, in hexadecimal, as `activity_info` gives it.
        workflow: The workflow's name.
        version: Its version.
        run: The run's number, from 0, raised by recur.
        trace: Where the run stands in a trace.
        previous: Where the run stands that was closed by opening this one; None: it is the first.
        created_stamp: When the instance was started, in epoch microseconds.
        started_stamp: When the run began, in epoch microseconds; None: it never has.
    """

    instance_id: str
    execution_id: str
    workflow: str
    version: str
    run: int
    trace: TraceContext
    previous: TraceContext | None
    created_stamp: int
    started_stamp: int | None


class Happening(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something that has happened.

    Attributes:
        stamp: When, in epoch microseconds by the App's clock.
        is_replayed: It had happened before, and is gone through again: told only to hooks with `Hooks.replays`.
    """

    stamp: int
    is_replayed: bool = False

    @property
    def at(self) -> datetime:
        """When it happened, as an aware datetime."""
        return _instant(self.stamp)


class WorkflowBegan(Happening, frozen=True, kw_only=True, gc=False):
    """A run that begins, or has come back to memory; ``delay``: seconds between when it was due and now.

    ``recoveries``: how often its worker has died since it last got on.
    """

    delay: float = 0.0
    recoveries: int = 0


class WorkflowSuspended(Happening, frozen=True, kw_only=True, gc=False):
    """A run that has left memory, and why."""

    reason: Literal["waiting", "paused", "shutdown", "session lost", "taken over"]


class WorkflowEnded(Happening, frozen=True, kw_only=True, gc=False):
    """A run that has ended or can't go on; ``status`` as `InstanceInfo.status`, or ``recurred``."""

    status: str
    failure: Failure | None = None


class ActivityEvent(Happening, frozen=True, kw_only=True, gc=False):
    """Something about an activity, or about a compensation.

    Attributes:
        activity_id: The operation's id in the run.
        name: The activity's name.
        attempt: The attempt that it is about, from 1.
        scheduled_stamp: When the workflow asked for it, in epoch microseconds.
        is_compensation: It undoes something.
        failure: What the attempt failed with, if it did.
        retry_stamp: When the next attempt is due, in epoch microseconds; None: there is none.
        delay: Seconds between when the attempt was due and its begin.
    """

    activity_id: str
    name: str
    attempt: int
    scheduled_stamp: int
    is_compensation: bool = False
    failure: Failure | None = None
    retry_stamp: int | None = None
    delay: float = 0.0

    def trace_in(self, run: RunRef) -> TraceContext:
        """Return where the activity stands in a trace."""
        return run.trace.child(self.activity_id)


class TimerEvent(Happening, frozen=True, kw_only=True, gc=False):
    """Something about a timer; ``deadline_stamp`` is when it is due, in epoch microseconds."""

    timer_id: str
    deadline_stamp: int

    @property
    def deadline(self) -> datetime:
        """When it is due, as an aware datetime."""
        return _instant(self.deadline_stamp)


class MessageEvent(Happening, frozen=True, kw_only=True, gc=False):
    """Something about a message.

    Attributes:
        channel: The channel's name.
        activity_id: The receive, or the send, in the run; empty: it was sent from outside of any.
        message_id: The message's id; empty while it is waited for.
        to: The instance that it was sent to; None: it was published, or is about a receive.
        sender: The instance that has sent it, if one did.
        headers: What was sent along.
    """

    channel: str
    activity_id: str = ""
    message_id: str = ""
    to: str | None = None
    sender: str | None = None
    headers: Mapping[str, str] = {}


class ReplayEvent(Happening, frozen=True, kw_only=True, gc=False):
    """A replay that begins or is over: how many events, and how many seconds of computing it took."""

    events: int
    seconds: float = 0.0


class Nondeterminism(Happening, frozen=True, kw_only=True, gc=False):
    """Code that does not fit what was recorded; the instance is blocked."""

    failure: Failure


class SessionLost(Happening, frozen=True, kw_only=True, gc=False):
    """A worker that was taken for dead: it registers anew; ``runs`` is how many it had in memory."""

    runs: int


class BatchCommitted(Happening, frozen=True, kw_only=True, gc=False):
    """A group commit that was acknowledged: of how many entries, and after how many seconds."""

    entries: int
    seconds: float


class InstanceCounts(Happening, frozen=True, kw_only=True, gc=False):
    """How many instances there are; looked at now and then.

    Attributes:
        hot: In this worker's memory.
        cold: In no worker's memory, and not ended; None: another worker counts them.
        by_status: All that have not ended, by status; empty where another worker counts them.
    """

    hot: int
    cold: int | None = None
    by_status: Mapping[str, int] = {}


class Propagator(Protocol):
    """Carries trace contexts between code and what it starts. Called on the event loop; must be quick."""

    def current(self) -> TraceContext | None:
        """Return the span that is current where something is started or sent, as the parent of what follows."""
        ...

    def begin(self, parent: TraceContext | None, execution_id: int) -> TraceContext:
        """Return the place of a new instance's span, below ``parent`` if there is one."""
        ...

    def enter(self, context: TraceContext) -> None:
        """Make a span the current one of the running task, for as long as that lives."""
        ...


class Hooks:
    """Watch what happens: derive from it, override what is of interest, and pass it to ``App(hooks=[...])``.

    Everything is told after it has happened: what a turn did, after its commit was acknowledged. Nothing is told twice
    for being replayed; what happens just before a process dies may not be told at all. For one run, and for one App,
    the order is that of happening.

    Each object is told in a thread of its own: it may be slow, or block, without holding up any workflow. When it has
    fallen behind by `backlog` happenings, further ones are dropped, and the log says so. What it raises is logged.

    Attributes:
        replays: Be told too of what a replay goes through again, with ``is_replayed`` set.
        backlog: How many happenings may wait for the object.
        propagator: Carries trace contexts; None: it does not.
    """

    replays: ClassVar[bool] = False
    backlog: ClassVar[int] = 100_000
    propagator: Propagator | None = None

    # -- runs -------------------------------------------------------------------------------------------

    def workflow_started(self, run: RunRef, event: WorkflowBegan) -> None:
        """Note that a run has begun: it was claimed for the first time, or opened by recur."""

    def workflow_suspended(self, run: RunRef, event: WorkflowSuspended) -> None:
        """Note that a run has left memory, and is to come back by replay."""

    def workflow_resumed(self, run: RunRef, event: WorkflowBegan) -> None:
        """Note that a run has come back to memory."""

    def workflow_recurred(self, run: RunRef, event: WorkflowEnded) -> None:
        """Note that a run has closed itself; the next one of its instance follows."""

    def workflow_completed(self, run: RunRef, event: WorkflowEnded) -> None:
        """Note that a run has ended well."""

    def workflow_failed(self, run: RunRef, event: WorkflowEnded) -> None:
        """Note that a run has failed."""

    def workflow_cancelled(self, run: RunRef, event: WorkflowEnded) -> None:
        """Note that a run was cancelled."""

    def workflow_terminated(self, run: RunRef, event: WorkflowEnded) -> None:
        """Note that a run was terminated."""

    def workflow_timed_out(self, run: RunRef, event: WorkflowEnded) -> None:
        """Note that a run has ended at its time limit."""

    def workflow_blocked(self, run: RunRef, event: WorkflowEnded) -> None:
        """Note that a run can't go on with the deployed code."""

    # -- activities -------------------------------------------------------------------------------------

    def activity_started(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that an attempt at an activity has begun."""

    def activity_completed(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that an activity's result is recorded."""

    def activity_failed(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that an activity has failed for good."""

    def activity_retried(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that an attempt, at an activity or a compensation, has failed, and another one will follow."""

    def activity_cancelled(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that the workflow has withdrawn an activity, or a compensation: no outcome of it counts any more."""

    def activity_cache_hit(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that a replay has given an activity's recorded outcome to the code."""

    def compensation_started(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that an attempt at a compensation has begun."""

    def compensation_completed(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that a compensation's result is recorded."""

    def compensation_failed(self, run: RunRef, event: ActivityEvent) -> None:
        """Note that a compensation has failed for good."""

    # -- timers and messages ----------------------------------------------------------------------------

    def timer_started(self, run: RunRef, event: TimerEvent) -> None:
        """Note that the code has begun to wait for a time, or to bound something by it."""

    def timer_fired(self, run: RunRef, event: TimerEvent) -> None:
        """Note that a timer's time has come."""

    def message_sent(self, run: RunRef | None, event: MessageEvent) -> None:
        """Note that a message was accepted; ``run`` has sent it, or None: a client of this App."""

    def message_waited_for(self, run: RunRef, event: MessageEvent) -> None:
        """Note that the code has begun to wait for a message."""

    def message_received(self, run: RunRef, event: MessageEvent) -> None:
        """Note that the code was given a message."""

    def message_timed_out(self, run: RunRef, event: MessageEvent) -> None:
        """Note that no message has come within a receive's own ``timeout``."""

    # -- replay and the worker --------------------------------------------------------------------------

    def replay_started(self, run: RunRef, event: ReplayEvent) -> None:
        """Note that a run's history is about to be gone through."""

    def replay_completed(self, run: RunRef, event: ReplayEvent) -> None:
        """Note that a run has come to where its history ends."""

    def nondeterminism(self, run: RunRef, event: Nondeterminism) -> None:
        """Note that code asks for something else than what was recorded."""

    def session_lost(self, event: SessionLost) -> None:
        """Note that the worker was taken for dead by another, or can't reach the database."""

    def batch_committed(self, event: BatchCommitted) -> None:
        """Note that a group commit was acknowledged."""

    def instances_counted(self, event: InstanceCounts) -> None:
        """Note that the worker has looked how many instances there are; every quarter of a minute."""
