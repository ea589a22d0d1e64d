"""Every exception that romancy raises on purpose.

::

    RomancyError
    ├ DefinitionError              a decorator used wrongly, a name taken twice
    ├ NoAppError                   a workflow awaited while no App is open
    ├ NotInWorkflowError           I/O, threads or time that can't be replayed, used in workflow code
    ├ OutsideWorkflowError         a durable operation used where no workflow runs
    ├ InstanceNotFoundError        (LookupError)
    ├ InstanceAlreadyExistsError · InstanceClosedError · InstanceRunningError
    ├ WorkflowFailedError          from result(): .failure, .status
    │ ├ WorkflowCancelledError
    │ ├ WorkflowTerminatedError
    │ └ WorkflowTimedOutError
    ├ WorkflowBlockedError         from result(): .reason, .stack
    ├ ActivityFailedError          in workflow code: .failure, .attempts
    │ └ ActivityTimedOutError      .kind
    ├ ChildWorkflowFailedError     in workflow code: .failure, .child_id, .status
    ├ CompensationError            .failure, .activity_id
    ├ NonRetryableError · RetryAfter             raised by authors
    ├ NondeterminismError          .activity_id .recorded .requested .location
    ├ ChannelModeError · PayloadTooLargeError · CodecError
    └ StorageError
      ├ SessionLostError
      └ SchemaVersionError

A message says what happened, to which id, and what to do. A traceback ends in a link to the page of the error's class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from datetime import timedelta

    from romancy.core.failures import Failure


DOCUMENTATION: Final = "https://romancy.readthedocs.io/en/stable"
"""Where the documentation is read."""


def page_of(cls: type[BaseException]) -> str:
    """Return the address of an error's page; that of the nearest class of ours, for one that is derived from it."""
    own = next((each for each in cls.__mro__ if each.__module__ == __name__), RomancyError)
    return f"{DOCUMENTATION}/reference/errors.html#{own.__name__.lower()}"


class RomancyError(Exception):
    """Be the base of everything that romancy raises on purpose.

    Each has a note with the address of its page, which the interpreter prints at the end of a traceback.
    """

    def __new__(cls, *args: Any, **_: Any) -> Self:
        """Make an error, with its note."""
        error = super().__new__(cls, *args)
        error.add_note(f"see {page_of(cls)}")
        return error


class DefinitionError(RomancyError):
    """A workflow, activity or channel is declared wrongly, or its name is taken."""


class NoAppError(RomancyError):
    """A workflow was awaited while no `App` is open (or more than one)."""


class NotInWorkflowError(RomancyError):
    """Workflow code called something that can't be replayed: put it in an activity."""


class OutsideWorkflowError(RomancyError):
    """A durable operation was used where no workflow runs."""


class InstanceNotFoundError(RomancyError, LookupError):
    """No instance has this id."""


class InstanceAlreadyExistsError(RomancyError):
    """The id is taken by another instance."""


class InstanceClosedError(RomancyError):
    """The instance has ended: it takes no more messages."""


class InstanceRunningError(RomancyError):
    """The instance has not ended, so it can't be purged or replaced."""


class WorkflowFailedError(RomancyError):
    """A run ended without a result.

    Attributes:
        failure: What ended it, with type, message, traceback text and causes;
            ``None`` where nothing but the status is known.
        status: How it ended: ``"failed"``, ``"cancelled"``, ``"terminated"`` or ``"timed_out"``.
    """

    status = "failed"

    def __init__(self, message: str, failure: Failure | None = None) -> None:
        super().__init__(message)
        self.failure = failure


class WorkflowCancelledError(WorkflowFailedError):
    """The run was cancelled."""

    status = "cancelled"


class WorkflowTerminatedError(WorkflowFailedError):
    """The run was terminated: nothing of it ran any more."""

    status = "terminated"


class WorkflowTimedOutError(WorkflowFailedError):
    """The run exceeded its own time limit."""

    status = "timed_out"


class WorkflowBlockedError(RomancyError):
    """The run can't go on with the code that is deployed; nothing is lost.

    Attributes:
        reason: What stands in the way, in one line.
        stack: The stack or traceback that belongs to it; empty if there is none.
    """

    def __init__(self, message: str, reason: str, stack: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.stack = stack


class ActivityFailedError(RomancyError):
    """An activity failed for good and its own exception type can't be raised here.

    Attributes:
        failure: What the activity raised.
        attempts: How often its body was tried.
    """

    def __init__(self, message: str, failure: Failure | None = None, attempts: int = 1) -> None:
        super().__init__(message)
        self.failure = failure
        self.attempts = attempts


class ActivityTimedOutError(ActivityFailedError):
    """An activity ran out of time.

    Attributes:
        kind: ``"timeout"`` (one attempt), ``"total_timeout"`` (all attempts and back-offs) or
            ``"heartbeat_timeout"`` (between heartbeats).
    """

    def __init__(self, message: str, failure: Failure | None = None, attempts: int = 1, kind: str = "timeout") -> None:
        super().__init__(message, failure, attempts)
        self.kind = kind


class ChildWorkflowFailedError(RomancyError):
    """A child ended without a result; ``__cause__`` is what it failed with, in its own class where that is possible.

    Attributes:
        child_id: The child's instance id.
        status: How it ended: ``"failed"``, ``"cancelled"``, ``"terminated"`` or ``"timed_out"``.
        failure: What ended it; None where nothing but the status is known.
    """

    def __init__(
        self, message: str, child_id: str = "", status: str = "failed", failure: Failure | None = None
    ) -> None:
        super().__init__(message)
        self.child_id = child_id
        self.status = status
        self.failure = failure


class CompensationError(RomancyError):
    """A compensation failed for good; the others went on.

    Attributes:
        activity_id: The compensation's id in the run.
        failure: What it raised last.
    """

    def __init__(self, message: str, activity_id: str, failure: Failure | None = None) -> None:
        super().__init__(message)
        self.activity_id = activity_id
        self.failure = failure


class NonRetryableError(RomancyError):
    """Raise this (or a subclass) in an activity: it fails at once, whatever its retry policy."""


class RetryAfter(RomancyError):
    """Raise this in an activity: its next attempt comes after ``delay`` instead of the policy's interval."""

    def __init__(self, delay: timedelta | float, message: str = "retry requested") -> None:
        super().__init__(message)
        self.delay = delay


class NondeterminismError(RomancyError):
    """Workflow code asked for something else than what is recorded.

    Attributes:
        activity_id: Where in the run the two part.
        recorded: What history holds there.
        requested: What the code asked for; ``None`` when it no longer gets there.
        location: ``file:line`` of the first frame outside romancy and asyncio; ``"?"`` if unknown.
    """

    def __init__(
        self,
        message: str,
        activity_id: str | None = None,
        recorded: str | None = None,
        requested: str | None = None,
        location: str = "?",
    ) -> None:
        super().__init__(message)
        self.activity_id = activity_id
        self.recorded = recorded
        self.requested = requested
        self.location = location


class ChannelModeError(RomancyError):
    """A channel is used in two ways: to send directly, to broadcast, or to share out a topic; each has one."""


class PayloadTooLargeError(RomancyError):
    """An encoded value is over the limit; store it elsewhere and pass a reference."""


class CodecError(RomancyError):
    """A value can't be encoded, or does not fit its annotation; the message names the field."""


class StorageError(RomancyError):
    """The database refused, or can't be reached."""


class SessionLostError(StorageError):
    """This worker's session was declared dead: it owns nothing any more."""


class SchemaVersionError(StorageError):
    """The database's schema is newer than this romancy, or not romancy's."""
