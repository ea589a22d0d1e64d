"""What a worker reads of the database for hooks alone: how many instances there are, and which others have ended."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from romancy.errors import StorageError
from romancy.observers import ends_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from romancy.storage.protocol import Storage
    from romancy.worker.hot import HotSet
    from romancy.worker.watching import Watching

_logger = logging.getLogger("romancy")
_COUNTING_PAUSE = 15.0
"""Seconds between two looks at how many instances there are."""


class Reports:
    """Read for hooks what they have asked for; where nobody has, nothing is read."""

    def __init__(self, storage: Storage, watching: Watching, hot: HotSet, is_on_duty: Callable[[], bool]) -> None:
        self._storage = storage
        self._watching = watching
        self._hot = hot
        self._is_on_duty = is_on_duty
        self._ended: list[int] = []
        self._has_ended = asyncio.Event()
        self.is_counting = watching.wants("instances_counted")
        self.is_telling_ends = watching.wants("workflow_terminated")

    def ended(self, key: int) -> None:
        """Note an instance, here or elsewhere, that was terminated by the end of another."""
        if self.is_telling_ends:
            self._ended.append(key)
            self._has_ended.set()

    async def count_for_ever(self) -> None:
        """Tell how many instances there are; one worker asks the database for all."""
        while True:
            try:
                found = await self._storage.count_open() if self._is_on_duty() else None
            except StorageError as exc:
                _logger.warning("counting instances failed, trying again: %s", exc)
            else:
                self._watching.counted(len(self._hot), found)
            await asyncio.sleep(_COUNTING_PAUSE)

    async def tell_of_ends_for_ever(self) -> None:
        """Tell of the instances that were terminated by the ends of others."""
        while True:
            await self._has_ended.wait()
            self._has_ended.clear()
            keys, self._ended = self._ended, []
            for end in await ends_of(self._storage, keys):
                self._watching.terminated(*end)
