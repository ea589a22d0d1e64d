"""A thread that interrupts workflow code which does not come back.

Nothing is locked on the side of the code that is watched: an interrupt between acquiring a lock and the block that
releases it would leak the lock.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, TypeAlias

from romancy.replay.loop import ReplayLoop, TurnInterrupted

if TYPE_CHECKING:
    from datetime import timedelta

_logger = logging.getLogger("romancy")
_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
_REPEAT = 0.05


_Watch: TypeAlias = tuple[ReplayLoop, int, float]
"""Who is watched: the loop, its thread's id, and since when. A plain tuple: one is made for every turn."""


class Watchdog:
    """Bound the time of a drain: log the stack after ``warn_after``, interrupt it after ``interrupt_after``.

    A blocking C call is not interrupted, and code that catches ``BaseException`` in an endless loop may go on:
    then the worker's session expires, and another process takes over.
    """

    def __init__(self, warn_after: timedelta, interrupt_after: timedelta) -> None:
        self._warn_after = warn_after.total_seconds()
        self._interrupt_after = interrupt_after.total_seconds()
        self._armed: _Watch | None = None
        self._is_firing = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="romancy-watchdog", daemon=True)
        self.stack = ""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def arm(self, loop: ReplayLoop) -> None:
        """Watch a drain of the calling thread."""
        self._armed = (loop, threading.get_ident(), time.monotonic())

    def disarm(self, loop: ReplayLoop) -> None:
        """Stop watching; an interrupt that is under way has struck or is withdrawn afterwards."""
        self._armed = None
        while self._is_firing:
            time.sleep(0)
        if loop.is_interrupted:
            _raise_in_thread(ctypes.c_ulong(threading.get_ident()), None)

    def _watch(self) -> None:
        warned: _Watch | None = None
        while not self._stopped.wait(self._warn_after / 4):
            watch = self._armed
            if watch is None:
                continue
            loop, thread, since = watch
            elapsed = time.monotonic() - since
            if elapsed >= self._warn_after and warned is not watch:
                warned = watch
                self.stack = self._stack_of(thread)
                run = getattr(loop, "romancy_run", None)  # the turn may be over, and the run gone, by now
                _logger.warning(
                    "instance %s has held the event loop for %.1f s in one turn; its code is at:\n%s",
                    "?" if run is None else run.instance_id,
                    elapsed,
                    self.stack,
                )
            if elapsed >= self._interrupt_after:
                self._interrupt(watch)

    def _interrupt(self, watch: _Watch) -> None:
        loop, thread, _ = watch
        while self._armed is watch and not self._stopped.is_set():
            self.stack = self._stack_of(thread)
            self._is_firing = True
            if self._armed is watch:
                loop.is_interrupted = True
                _raise_in_thread(ctypes.c_ulong(thread), ctypes.py_object(TurnInterrupted))
            self._is_firing = False
            time.sleep(_REPEAT)

    @staticmethod
    def _stack_of(thread: int) -> str:
        frame = sys._current_frames().get(thread)  # noqa: SLF001
        return "".join(traceback.format_stack(frame)[-20:]) if frame is not None else ""
