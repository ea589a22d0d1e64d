"""Threads for the bodies of ``def`` activities."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[], object]
    context: contextvars.Context
    future: asyncio.Future[Any]


class Threads:
    """Run functions in daemon threads, started when they are needed and ended by `close`.

    A function whose caller is cancelled goes on in its thread, and what it returns is dropped: a thread can't be
    stopped from outside. A process is not kept alive by it.
    """

    def __init__(self, limit: int) -> None:
        """Prepare; at most ``limit`` functions run at once, the others wait in the order of their calls."""
        self._limit = limit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._free = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Run a function in a thread, with the caller's context variables."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            is_short = self._free == 0 and len(self._threads) < self._limit
            if not is_short:
                self._free -= 1
        if is_short:
            thread = threading.Thread(target=self._serve, name=f"romancy-activity-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put(_Job(work, contextvars.copy_context(), future))
        return await future

    def close(self, timeout: float) -> list[str]:
        """End the threads; return the names of those that are still busy after ``timeout`` seconds in all."""
        until = time.monotonic() + timeout
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        busy = [thread.name for thread in self._threads if thread.is_alive()]
        self._threads.clear()
        return busy

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            result: object = None
            error: BaseException | None = None
            try:
                if not job.future.done():  # else its caller has given up before it began
                    result = job.context.run(job.work)
            except BaseException as exc:  # noqa: BLE001 - it belongs to the caller
                error = exc
            with self._lock:
                self._free += 1
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                job.future.get_loop().call_soon_threadsafe(_resolve, job.future, result, error)
            del job, result, error


def _resolve(future: asyncio.Future[object], result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):
        failure = RuntimeError("the activity raised StopIteration, which can't pass through a coroutine")
        failure.__cause__ = error
        future.set_exception(failure)
    else:
        future.set_exception(error)
