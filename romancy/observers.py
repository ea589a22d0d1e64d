"""Telling hooks what has happened: each in a thread of its own, so that none can hold up a workflow or another."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias, cast

from romancy.core.hooks import Hooks, RunRef, WorkflowEnded
from romancy.core.tracing import context_of_run, given_parent
from romancy.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from romancy.core.hooks import Happening, Propagator
    from romancy.core.records import Instance
    from romancy.core.tracing import TraceContext
    from romancy.storage.protocol import Storage

_logger = logging.getLogger("romancy")
_PATIENCE = 5.0
"""Seconds that a closing App waits for hooks to be told of what has happened."""
_PAUSE_BETWEEN_WARNINGS = 10.0

NOBODY = object()
"""Stands for the run where there is none to be told of."""

_Told: TypeAlias = "tuple[Callable[..., object], object, Happening]"


class _Observer:
    """One object and the thread that tells it, in order. Whatever the object does, nobody else hears of it."""

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks
        self._queue: SimpleQueue[list[_Told] | threading.Event | None] = SimpleQueue()
        self._batch: list[_Told] = []
        self._given = 0
        self._told = 0
        self._dropped = 0
        self._warned_at = -_PAUSE_BETWEEN_WARNINGS
        # A daemon: a hook that never returns must not keep the process from ending.
        name = f"romancy-hooks-{type(hooks).__name__}"
        self._thread = threading.Thread(target=self._tell_all, name=name, daemon=True)
        self._thread.start()

    def put(self, told: _Told) -> bool:
        """Have a method called, after the next `flush`; dropped if the object has fallen too far behind.

        Returns:
            Whether it is the first since the last flush.
        """
        if self._given - self._told < self.hooks.backlog:
            self._given += 1
            self._batch.append(told)
            return len(self._batch) == 1
        self._dropped += 1
        if time.monotonic() - self._warned_at >= _PAUSE_BETWEEN_WARNINGS:
            self._warned_at = time.monotonic()
            _logger.warning("%r has fallen behind: %d happenings were not told to it so far", self.hooks, self._dropped)
        return False

    def flush(self) -> None:
        """Hand what was put to the thread: it is woken once for all of it."""
        if self._batch:
            self._queue.put(self._batch)
            self._batch = []

    def mark(self) -> threading.Event:
        """Return what is set once the object has been told of all that has happened until now."""
        self.flush()
        mark = threading.Event()
        self._queue.put(mark)
        return mark

    def end(self) -> threading.Thread:
        """Have the thread end when it is done, and return it."""
        self.flush()
        self._queue.put(None)
        return self._thread

    def _tell_all(self) -> None:
        while True:
            told = self._queue.get()
            if told is None:
                return
            if isinstance(told, threading.Event):
                told.set()
                continue
            for method, run, event in told:
                self._told += 1
                try:
                    if run is NOBODY:
                        method(event)
                    else:
                        method(run, event)
                except BaseException:  # whatever a hook raises, SystemExit too, changes nothing
                    _logger.exception("hook %s of %r raised", getattr(method, "__name__", method), self.hooks)


class Observers:
    """All hooks of an App: tell them, from the event loop, without waiting for them.

    Attributes:
        propagator: Carries trace contexts; None: nobody asks for it.
        is_watching: Whether anybody is to be told of anything.
        has_replays: Whether anybody asks for what replays go through.
    """

    def __init__(self, hooks: Sequence[Hooks] = ()) -> None:
        """Check and prepare the hooks; nothing is told before `open`.

        Raises:
            TypeError: One is no `Hooks`.
        """
        for each in cast("Sequence[object]", hooks):
            if not isinstance(each, Hooks):
                msg = f"{each!r} is no Hooks: derive its class from romancy.Hooks"
                raise TypeError(msg)
        self._hooks = tuple(hooks)
        self._observers: list[_Observer] = []
        self._soon: Callable[[Callable[[], None]], object]
        self._targets: dict[str, list[tuple[_Observer, Callable[..., object], bool]]] = {}
        self.is_watching = bool(self._hooks)
        self.propagator: Propagator | None = next((h.propagator for h in hooks if h.propagator is not None), None)
        self.has_replays = any(h.replays for h in hooks)

    def open(self) -> None:
        """Begin to tell, from the running event loop."""
        self._soon = asyncio.get_running_loop().call_soon
        self._observers = [_Observer(hooks) for hooks in self._hooks]
        for observer in self._observers:
            cls = type(observer.hooks)
            for name, method in vars(Hooks).items():
                if name.startswith("_") or not callable(method) or getattr(cls, name) is method:
                    continue
                target = (observer, getattr(observer.hooks, name), cls.replays)
                self._targets.setdefault(name, []).append(target)

    def wants(self, method: str) -> bool:
        """Tell whether anybody has overridden a method of `Hooks`."""
        return method in self._targets

    def tell(self, method: str, run: RunRef | None, event: Happening) -> None:
        """Tell of something that happens in, or is sent by, a run; never waits, and never raises."""
        for observer, target, has_replays in self._targets.get(method, ()):
            if (has_replays or not event.is_replayed) and observer.put((target, run, event)):
                self._soon(observer.flush)

    def tell_of_worker(self, method: str, event: Happening) -> None:
        """Tell of something that concerns no run."""
        for observer, target, _ in self._targets.get(method, ()):
            if observer.put((target, NOBODY, event)):
                self._soon(observer.flush)

    async def told(self) -> None:
        """Wait until everybody has been told of all that has happened until now, for some seconds at most."""
        if self._observers:
            await asyncio.to_thread(_wait_for, [observer.mark() for observer in self._observers])

    async def close(self) -> None:
        """Let everybody be told of the rest, for some seconds at most, and end the threads."""
        observers, self._observers = self._observers, []
        self._targets = {}
        if not observers:
            return
        threads = [observer.end() for observer in observers]
        await asyncio.to_thread(_join, threads)
        for observer, thread in zip(observers, threads, strict=True):
            if thread.is_alive():
                _logger.warning("%r does not return from a hook: it is left behind", observer.hooks)

    # -- trace contexts ---------------------------------------------------------------------------------

    def current(self) -> TraceContext | None:
        """Return the caller's span, or the one that it was given, if contexts are carried and there is one."""
        if self.propagator is None:
            return None
        given = given_parent.get()
        if given is not None:
            return given
        try:
            return self.propagator.current()
        except Exception:
            _logger.exception("the propagator raised: no trace context is sent along")
            return None

    def begin(self, execution_id: int) -> str | None:
        """Return the trace context to store with an instance that the caller starts; None: there is none."""
        if self.propagator is None:
            return None
        try:
            return self.propagator.begin(self.current(), execution_id).encode()
        except Exception:
            _logger.exception("the propagator raised: no trace context is stored")
            return None

    def enter(self, context: TraceContext) -> None:
        """Make a span the current one of the running task."""
        if self.propagator is not None:
            try:
                self.propagator.enter(context)
            except Exception:
                _logger.exception("the propagator raised: the activity runs without a current span")


def ref_of(instance: Instance) -> RunRef:
    """Return what hooks are told of the latest run of an instance."""
    return RunRef(
        instance_id=instance.id,
        execution_id=f"{instance.execution_id:016x}",
        workflow=instance.workflow,
        version=instance.version,
        run=instance.run,
        trace=context_of_run(instance.trace_context, instance.execution_id, instance.run),
        previous=context_of_run(instance.trace_context, instance.execution_id, instance.run - 1)
        if instance.run
        else None,
        created_stamp=instance.created_at,
        started_stamp=instance.started_at,
    )


async def ends_of(storage: Storage, keys: Sequence[int]) -> list[tuple[RunRef, WorkflowEnded]]:
    """Read what hooks are told of instances that were ended from outside; nothing if that fails, which is logged."""
    try:
        instances = await storage.get_many(keys)
    except StorageError as exc:
        _logger.warning("reading how %d instances ended failed, hooks are not told: %s", len(keys), exc)
        return []
    return [_end_of(instance) for instance in instances]


def _end_of(instance: Instance) -> tuple[RunRef, WorkflowEnded]:
    stamp = instance.created_at if instance.closed_at is None else instance.closed_at
    return ref_of(instance), WorkflowEnded(stamp=stamp, status=instance.status.name.lower())


def _wait_for(marks: list[threading.Event]) -> None:
    until = time.monotonic() + _PATIENCE
    for mark in marks:
        mark.wait(max(0.0, until - time.monotonic()))


def _join(threads: list[threading.Thread]) -> None:
    until = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
