"""Which errors of workflow code are mistakes of its author."""

from __future__ import annotations

from romancy.core.failures import recorded_failure
from romancy.errors import (
    CodecError,
    DefinitionError,
    NondeterminismError,
    NotInWorkflowError,
    OutsideWorkflowError,
    PayloadTooLargeError,
)
from romancy.replay.suspend import members_of

BUGS = (
    NameError,
    AttributeError,
    ImportError,
    TypeError,
    NotInWorkflowError,
    OutsideWorkflowError,
    NondeterminismError,
    DefinitionError,
    CodecError,
    PayloadTooLargeError,
)
"""What workflow code raises by mistake: a bad deploy must not compensate every customer."""


def is_bug(exc: BaseException) -> bool:
    """Tell whether workflow code raised a programming error, by itself or in a group.

    An exception that an activity raised is not one: it is marked as recorded.
    """
    return any(map(is_bug, members_of(exc))) or (isinstance(exc, BUGS) and recorded_failure(exc) is None)
