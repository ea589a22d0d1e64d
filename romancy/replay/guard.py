"""The seam by which a worker bounds the time that workflow code may take in one turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from romancy.replay.loop import ReplayLoop


class Guard(Protocol):
    """Interrupt a drain that takes too long.

    It sets `ReplayLoop.is_interrupted` and raises `TurnInterrupted` in the drain's thread.
    """

    def arm(self, loop: ReplayLoop) -> None:
        """Begin to watch a drain in the calling thread."""
        ...

    def disarm(self, loop: ReplayLoop) -> None:
        """Stop watching. Safe to call again when it was interrupted itself."""
        ...
