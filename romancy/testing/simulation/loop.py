"""An event loop without I/O, whose time is virtual: where nothing is ready, the next timer is."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

from romancy.core import entropy

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import timedelta

    from romancy.replay.loop import ReplayLoop


_LONGEST_STILL = 200_000
"""Cycles of the loop within one instant."""


class StuckError(Exception):
    """Nothing is ready, and nothing will ever be."""


class _NoSelector:
    """What asyncio takes for a selector; to wait is to let time pass."""

    def __init__(self) -> None:
        self.loop: SimulatedLoop | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        if self.loop is None:
            return []
        if timeout is None:
            msg = "nothing is ready, and no timer is set"
            raise StuckError(msg)
        self.loop.now += max(timeout, 0.0)
        return []

    def get_map(self) -> dict[Any, Any]:
        return {}

    def close(self) -> None:
        """Nothing is open."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour passes at once.

    Attributes:
        now: The loop's time, in seconds.
    """

    now = 0.0

    def __init__(self) -> None:
        selector = _NoSelector()
        super().__init__(cast("Any", selector))
        self._clock_resolution = 1e-6
        selector.loop = self

        self._seen = -1.0
        self._still = 0

    def time(self) -> float:
        """Return the loop's time."""
        return self.now

    def _run_once(self) -> None:
        """Do what is ready; if that never ends, and no time passes, say so."""
        self._still = self._still + 1 if self._seen == self.now else 0
        self._seen = self.now
        if self._still > _LONGEST_STILL:
            msg = f"time stands still at {self.now} s: something rings without end"
            raise StuckError(msg)
        cast("Any", super())._run_once()  # noqa: SLF001 - the one place through which a loop goes

    def _make_self_pipe(self) -> None:
        """Nobody wakes it from another thread."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        """Likewise."""


class NoWatchdog:
    """In place of the thread that bounds turns: the programs end by themselves, and a thread knows no seed."""

    stack = ""

    def __init__(self, warn_after: timedelta, interrupt_after: timedelta) -> None:
        pass

    def start(self) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""

    def arm(self, loop: ReplayLoop) -> None:
        """Nothing."""

    def disarm(self, loop: ReplayLoop) -> None:
        """Nothing."""


@contextlib.contextmanager
def virtual(loop: SimulatedLoop, seed: int) -> Generator[None]:
    """Have the time and the chance of this process be those of a simulation."""

    def clock_gettime(clock: int) -> float:  # noqa: ARG001 - they all tell the same
        return loop.time()

    chance = random.Random(seed)
    state = random.getstate()
    random.seed(seed)
    entropy.forget()
    with contextlib.ExitStack() as stack:
        for name in ("monotonic", "perf_counter"):
            stack.enter_context(mock.patch.object(time, name, loop.time))
        stack.enter_context(mock.patch.object(time, "clock_gettime", clock_gettime))
        stack.enter_context(mock.patch("os.urandom", chance.randbytes))
        stack.enter_context(mock.patch("romancy.worker.worker.Watchdog", NoWatchdog))
        # All of these processes are one: its number tells nothing of them.
        stack.enter_context(mock.patch("romancy.worker.worker.this_process", return_value=""))
        stack.enter_context(mock.patch("romancy.worker.session.is_gone", return_value=False))
        try:
            yield
        finally:
            random.setstate(state)
            entropy.forget()
