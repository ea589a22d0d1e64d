"""Time, chance and order that are the same at every replay."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from romancy.core.clock import MICROSECONDS
from romancy.core.codec import decode_value, encode_value
from romancy.core.events import EventKind
from romancy.core.signatures import Signature
from romancy.replay.context import current_execution
from romancy.replay.ids import derived_random, derived_uuid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
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
    return derived_uuid(execution.execution_id, execution.run, execution.loop.scope())


def random() -> float:
    """Return a float in [0, 1) that is the same at every replay.

    Raises:
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("random()")
    return derived_random(execution.execution_id, execution.run, execution.loop.scope())


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

    recorded = execution.marker(EventKind.SIDE_EFFECT, "side_effect", make)
    return cast("T", decode_value(decoder, recorded, what))


async def sleep(delay: timedelta | float) -> None:
    """Sleep durably: a timedelta, or seconds. Nothing is waited for if it is not positive."""
    await asyncio.sleep(delay.total_seconds() if isinstance(delay, timedelta) else delay)


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


def as_completed(aws: Iterable[Awaitable[T]], *, timeout: float | None = None) -> Iterator[Coroutine[Any, Any, T]]:
    """Iterate over awaitables in the order in which they end; the same order at every replay.

    A replacement of `asyncio.as_completed`, which makes its tasks in the order of addresses.

    Args:
        aws: Awaitables; one that is given twice is waited for once.
        timeout: Seconds for all of them; what is awaited after that raises `TimeoutError`.

    Yields:
        Coroutines, to be awaited one after the other.
    """
    futures: list[asyncio.Future[T]] = []
    seen: set[int] = set()
    for awaitable in aws:
        if id(awaitable) not in seen:
            seen.add(id(awaitable))
            futures.append(asyncio.ensure_future(awaitable))
    ended: asyncio.Queue[asyncio.Future[T] | None] = asyncio.Queue()
    left = list(futures)
    timer: asyncio.TimerHandle | None = None

    def on_done(future: asyncio.Future[T]) -> None:
        if future in left:
            left.remove(future)
            ended.put_nowait(future)
        if not left and timer is not None:
            timer.cancel()

    def on_timeout() -> None:
        for future in left:
            future.remove_done_callback(on_done)
            ended.put_nowait(None)
        left.clear()

    for future in futures:
        future.add_done_callback(on_done)
    if futures and timeout is not None:
        timer = asyncio.get_running_loop().call_later(timeout, on_timeout)

    async def next_one() -> T:
        future = await ended.get()
        if future is None:
            raise TimeoutError
        return future.result()

    for _ in futures:
        yield next_one()
