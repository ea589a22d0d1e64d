"""What a run shows to clients, as its turns gather it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.records import Shown
from romancy.core.shown import check_tag_count

if TYPE_CHECKING:
    from romancy.replay.execution import Execution


class Showing:
    """Gather what a turn shows; what a replay goes through was shown before."""

    __slots__ = ("_custom_status", "_names", "_run", "_tags")

    def __init__(self, run: Execution) -> None:
        self._run = run
        self._custom_status: bytes | None = None
        self._tags: dict[str, str | None] | None = None
        self._names: set[str] = set()

    def show_custom_status(self, payload: bytes) -> None:
        """Show a custom status from the turn's commit on.

        Raises:
            SuspendSignal: The run is leaving memory.
        """
        self._run.refuse_if_poisoned()
        if not self._run.is_replaying:
            self._custom_status = payload

    def show_tags(self, tags: dict[str, str | None], what: str) -> None:
        """Set and remove tags with the turn's commit.

        Raises:
            PayloadTooLargeError: The run has set too many.
            SuspendSignal: The run is leaving memory.
        """
        self._run.refuse_if_poisoned()
        names = self._names | tags.keys()
        check_tag_count(len(names), what)
        self._names = names
        if not self._run.is_replaying:
            self._tags = {**(self._tags or {}), **tags}

    def take(self) -> Shown | None:
        """Return what the turn shows, once; None if it leaves everything as it is."""
        if self._custom_status is None and self._tags is None:
            return None
        shown = Shown(self._custom_status, self._tags)
        self._custom_status = self._tags = None
        return shown
