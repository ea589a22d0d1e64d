"""What the parts of a worker tell each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.core.records import Claim, Status
    from romancy.replay.execution import Execution, Turn
    from romancy.worker.hot import HotRun


class Surroundings(Protocol):
    """What turns tell the rest of the worker."""

    def make_execution(self, claim: Claim) -> Execution:
        """Return a new execution for a claimed instance."""
        ...

    def next_execution(self, run: HotRun, turn: Turn) -> Execution:
        """Return the execution of the run that recur opens."""
        ...

    def run_ended(self, run: HotRun, status: Status, payload: bytes | None) -> None:
        """Note that an instance has ended or is blocked; it is in the database. ``payload`` is its last event's."""
        ...

    def terminated(self, keys: Iterable[int]) -> None:
        """Note that instances, here or elsewhere, were terminated by the end of another; it is in the database."""
        ...

    def room_freed(self) -> None:
        """Note that a run has become idle or has left memory."""
        ...

    def lost_sight(self) -> None:
        """Note that the session may own an instance which the worker does not know of."""
        ...

    def run_freed(self, wake_at: int | None) -> None:
        """Note that an instance was freed and is due at an instant."""
        ...

    def topics_expected(self) -> None:
        """Note that topics may have something to hand out."""
        ...

    def mail_expected(self, keys: Iterable[int]) -> None:
        """Note that inbox rows for instances, here or elsewhere, are in the database."""
        ...
