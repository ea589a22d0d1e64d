"""Time, chance and order that are the same at every replay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from romancy.core.calls import CallKind
from romancy.core.clock import MICROSECONDS
from romancy.core.codec import decode_value, encode_value
from romancy.core.durations import seconds_of
from romancy.core.events import EventKind
from romancy.core.signatures import Signature
from romancy.replay.context import current_execution

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

T = TypeVar("T")


def now() -> datetime:
    """Return the present time as an aware UTC datetime; it stands still between two waits.

    Raises:
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("now()")
    return execution.instant(execution.loop.stamp)


def uuid4() -> UUID:
    """Return a UUID that is the same at every replay, and differs for every start, run and draw.

    Raises:
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("uuid4()")
    return execution.names.uuid(execution.loop.scope())


def random() -> float:
    """Return a float in [0, 1) that is the same at every replay.

    Raises:
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("random()")
    return execution.names.random(execution.loop.scope())


def side_effect(fn: Callable[[], T]) -> T:
    """Call a quick function once and record what it returns; a replay returns the record.

    For what is neither deterministic nor worth an activity, such as a read of a setting. The function must not
    fail and not block. If the process dies before the turn is recorded, it is called again. The value comes back
    by the function's return annotation; without one, as plain JSON types.

    Raises:
        CodecError: The value can't be encoded.
        PayloadTooLargeError: It is over the limit.
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("side_effect()")
    codec = execution.codec
    is_annotated = "return" in getattr(fn, "__annotations__", {})
    decoder = Signature(fn).result_decoder(codec) if is_annotated else codec.decoder(Any)
    what = "value of side_effect()"

    def make() -> bytes:
        payload = encode_value(codec, fn(), what)
        execution.check_size(payload, what)
        decode_value(decoder, payload, what)
        return payload

    recorded = execution.marker(EventKind.SIDE_EFFECT, CallKind.SIDE_EFFECT, "side_effect", make)
    return cast("T", decode_value(decoder, recorded, what))


async def sleep(delay: timedelta | float) -> None:
    """Sleep durably: a timedelta, or seconds. Nothing is waited for if it is not positive."""
    await asyncio.sleep(seconds_of(delay))


async def sleep_until(when: datetime) -> None:
    """Sleep durably until an instant; not at all if it has passed.

    Raises:
        ValueError: ``when`` has no time zone.
    """
    if when.tzinfo is None:
        msg = f"sleep_until({when!r}) needs an aware datetime, such as one with tzinfo=UTC"
        raise ValueError(msg)
    execution = current_execution("sleep_until()")
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    left = (when - epoch) // timedelta(microseconds=1) - execution.loop.stamp
    await asyncio.sleep(left / MICROSECONDS)
