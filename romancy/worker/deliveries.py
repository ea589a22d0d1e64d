"""What is addressed to instances: reading the inboxes of those that this worker owns, and handing out topics."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from romancy.errors import StorageError
from romancy.worker import pacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from romancy.storage.protocol import Storage
    from romancy.worker.hot import HotSet
    from romancy.worker.turns import Turns

_logger = logging.getLogger("romancy")
_PORTION = 500
"""About how many messages are put into inboxes in one transaction: others want to write too."""


class Deliveries:
    """Bring messages to the runs that this worker owns, and published ones to the inboxes of all subscribers.

    Both happen as soon as somebody says that there is something, and at every poll interval: a notice may be lost.

    Attributes:
        mail_wanted: Set it where an owned instance may have got mail, or its status may have changed.
        topics_wanted: Set it where a topic may have something to hand out.
    """

    def __init__(self, storage: Storage, hot: HotSet, turns: Turns, poll_interval: timedelta | None) -> None:
        self._storage = storage
        self._hot = hot
        self._turns = turns
        self._interval = poll_interval
        self.mail_wanted = asyncio.Event()
        self.topics_wanted = asyncio.Event()

    async def read_for_ever(self, session_id: Callable[[], int | None]) -> None:
        """Read the inboxes of owned instances, as far as they have not been seen."""
        while True:
            if not await self._wait_for(self.mail_wanted) and not len(self._hot):
                continue
            session = session_id()
            if session is None:
                continue
            try:
                mails = await self._storage.mail(session)
            except StorageError as exc:
                _logger.warning("reading inboxes failed, trying again: %s", exc)
                await asyncio.sleep(pacing.PAUSE_AFTER_FAILURE)
                self.mail_wanted.set()
                continue
            for mail in mails:
                run = self._hot.get(mail.key)
                if run is not None and run.execution_id == mail.execution_id:
                    self._turns.mail(run, mail.items, mail.inbox_seq, mail.status)

    async def hand_out_for_ever(
        self, on_reached: Callable[[Iterable[int]], None], is_on_duty: Callable[[], bool]
    ) -> None:
        """Put published messages into inboxes: whoever hears of some, and who is on duty what nobody has heard of."""
        while True:
            if not await self._wait_for(self.topics_wanted) and not is_on_duty():
                continue
            try:
                handed = await self._storage.hand_out(limit=_PORTION)
            except StorageError as exc:
                _logger.warning("handing out topics failed, trying again: %s", exc)
                await asyncio.sleep(pacing.PAUSE_AFTER_FAILURE)
                self.topics_wanted.set()
                continue
            on_reached(handed.reached)
            if handed.has_more:
                self.topics_wanted.set()

    async def _wait_for(self, event: asyncio.Event) -> bool:
        """Wait for an event, but not for ever; return whether it came."""
        try:
            async with asyncio.timeout(pacing.seconds_between_polls(self._storage, self._interval)):
                await event.wait()
        except TimeoutError:
            return False
        event.clear()
        return True
