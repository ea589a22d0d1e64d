"""What a long activity tells its worker: that it lives, how far it has come, that somebody else will finish it."""

from __future__ import annotations

import asyncio
import time

from romancy.activities.context import ActivityContext, running_activity
from romancy.core.codec import Subject
from romancy.core.tokens import Token, encode_token


def heartbeat(details: object = None) -> None:
    """Say that the running activity is alive, and how far it has come; cheap enough for every turn of a loop.

    It may be called from the body of an ``async def``, from the thread of a ``def``, and from threads that were given
    the body's context variables.

    Args:
        details: What `activity_info` is to tell the next attempt as ``heartbeat_details``: anything that an
            activity's argument can be. None leaves what was given before. They survive a failed or timed-out
            attempt, and, written about once a second, the end of the process.

    Raises:
        asyncio.CancelledError: The attempt is not wanted any more: its run was cancelled or has ended, it was timed
            out or withdrawn, or the worker lets go of it. Let it through. A ``def`` hears of it in no other way.
        OutsideWorkflowError: No activity of a workflow runs here.
        CodecError: The details can't be encoded. They are not kept.
        PayloadTooLargeError: They are over the limit.
    """
    context = _wanted("heartbeat()")
    if details is not None:
        definition = context.command.call.definition
        context.heart.keep(context.pulse, details, Subject("heartbeat details", "activity", definition.name))
    context.pulse.beaten_at = time.monotonic()


def complete_later() -> str:
    """Leave the running activity to be finished from outside, and return the token for it.

    When the body has returned, whatever it returned, its attempt is handed over: it waits for
    `Client.complete_activity` or `Client.fail_activity` with the token, from any process and across restarts, without
    a place in memory. ``timeout`` and ``total_timeout`` go on to count, ``heartbeat_timeout`` does not. A body that
    raises has failed as always. Whoever is fast may finish the activity before the body has returned; nobody then
    waits for the body.

    Returns:
        The token of this attempt, the same for every call: text that may stand in a URL. The next attempt has
        another one.

    Raises:
        asyncio.CancelledError: The attempt is not wanted any more; see `heartbeat`.
        OutsideWorkflowError: No activity of a workflow runs here.
    """
    context = _wanted("complete_later()")
    context.pulse.has_token = True
    command = context.command
    token = Token(context.instance_id, context.execution_id, context.run, command.activity_id, command.attempt)
    return encode_token(token)


def _wanted(what: str) -> ActivityContext:
    context = running_activity(what)
    if context.pulse.is_stopped:
        msg = f"attempt {context.command.attempt} at {context.command.activity_id} is not wanted any more"
        raise asyncio.CancelledError(msg)
    return context
