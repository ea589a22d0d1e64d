"""Writing what activities tell by their heartbeats: for all of them together, and not too often."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, cast

from romancy.core.codec import check_size, decode_value, encode_value
from romancy.core.records import Heartbeat
from romancy.errors import SessionLostError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from romancy.activities.context import Pulse
    from romancy.core.codec import Codec, Subject
    from romancy.storage.protocol import Storage
    from romancy.worker.bodies import Body

_logger = logging.getLogger("romancy")
_LONGEST_PACE = 1.0
_SHORTEST_PACE = 0.02


class Heartbeats:
    """Keep the latest details of every running attempt, in memory and, a little later, in the database.

    One storage call writes those of all attempts that have new ones: the first at once, the next a second later at
    the earliest, or a third of the shortest ``heartbeat_timeout`` among them. A process that dies loses what is
    younger.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        codec: Codec,
        payload_limit: int,
        session: Callable[[], int | None],
        on_lost: Callable[[int], None],
    ) -> None:
        """Prepare, in the event loop of the worker.

        Args:
            storage: Where they are written.
            codec: Encodes and decodes details.
            payload_limit: Upper bound of encoded details in bytes.
            session: Returns the worker's session, if it has one.
            on_lost: Told which one is dead.
        """
        self._storage = storage
        self._codec = codec
        self._decoder = codec.decoder(cast("object", Any))
        self._payload_limit = payload_limit
        self._session = session
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._dirty: dict[Body, None] = {}
        self._pace = _LONGEST_PACE
        self._written_at = 0.0
        self._wanted = asyncio.Event()

    def keep(self, pulse: Pulse, details: object, what: Subject) -> None:
        """Keep an attempt's latest details. Any thread may call it.

        Raises:
            CodecError: They can't be encoded.
            PayloadTooLargeError: They are over the limit.
        """
        payload = encode_value(self._codec, details, what)
        check_size(payload, self._payload_limit, what)
        body = cast("Body", pulse)
        body.details = payload
        if not body.is_dirty:
            body.is_dirty = True
            try:
                self._loop.call_soon_threadsafe(self._mark, body)
            except RuntimeError:  # the loop is closed: this thread was left behind
                raise asyncio.CancelledError from None

    def read(self, details: bytes) -> object:
        """Return kept details as plain JSON types."""
        return decode_value(self._decoder, details, "heartbeat details")

    def _mark(self, body: Body) -> None:
        self._dirty[body] = None
        timeout = body.command.call.definition.settings.heartbeat_timeout
        if timeout is not None:
            self._pace = min(self._pace, max(timeout.total_seconds() / 3, _SHORTEST_PACE))
        self._wanted.set()

    async def write_for_ever(self) -> None:
        """Write what is new, as often as it may be."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            pause = self._written_at + self._pace - time.monotonic()
            if pause > 0:
                try:
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()
                except TimeoutError:
                    pass
                else:
                    continue  # what has come may be in a greater hurry
            await self.flush()

    async def flush(self) -> None:
        """Write what is new now; what can't be written is tried again later."""
        self._written_at = time.monotonic()
        dirty, self._dirty, self._pace = self._dirty, {}, _LONGEST_PACE
        session = self._session()
        beats: dict[Body, Heartbeat] = {}
        for body in dirty:
            body.is_dirty = False  # before its details are read: those that come now mark it again
            if body.is_wanted and body.details is not None:
                beats[body] = _heartbeat_of(body, body.details)
        if session is None or not beats:
            return
        for body, beat in beats.items():
            body.run.beats[beat.activity_id] = beat  # it may be written whatever the answer is
        try:
            await self._storage.beat(session, list(beats.values()))
        except SessionLostError:
            self._on_lost(session)
        except StorageError as exc:
            _logger.warning("writing %d heartbeats failed, trying again: %s", len(beats), exc)
            for body in beats:
                self._mark(body)


def _heartbeat_of(body: Body, details: bytes) -> Heartbeat:
    run, command = body.run, body.command
    return Heartbeat(run.key, run.execution_id, body.run_number, command.activity_id, command.attempt, details)
