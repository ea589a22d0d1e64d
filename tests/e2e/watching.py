"""Hooks that keep what they were told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from romancy import Hooks
from romancy.core.hooks import ActivityEvent, Happening, MessageEvent, RunRef, TimerEvent

METHODS = [name for name, value in vars(Hooks).items() if not name.startswith("_") and callable(value)]


_OUTCOMES = {"activity_completed", "activity_failed", "compensation_completed", "compensation_failed"}
_REPEATABLE = {
    "activity_started",
    "compensation_started",
    "activity_cache_hit",
    "nondeterminism",
    "replay_started",
    "replay_completed",
    "workflow_blocked",
    "workflow_resumed",
    "workflow_suspended",
}


class Told(NamedTuple):
    method: str
    run: RunRef | None
    event: Any


class Watch(Hooks):
    """Keep everything that is told, in order."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def _keep(self, told: Told) -> None:
        self.told.append(told)

    def of(self, *methods: str) -> list[Any]:
        return [told.event for told in self.told if told.method in methods]

    def names(self, instance_id: str | None = None) -> list[str]:
        """Return what was told of runs (or one instance's), without what concerns the worker."""
        return [
            told.method for told in self.told if told.run is not None and instance_id in {None, told.run.instance_id}
        ]

    def repeated(self) -> list[tuple[object, ...]]:
        """Return what was told more often than once, though it happens once."""
        keys = Counter(
            (told.method, told.run.execution_id, told.run.run, *_subject_of(told.event))
            for told in self.told
            if told.run is not None and told.method not in _REPEATABLE
        )
        return [key for key, count in keys.items() if count > 1]

    def outcomes(self) -> set[tuple[str, int, str]]:
        """Return the activities and compensations whose outcome was told."""
        return {
            (told.run.execution_id, told.run.run, told.event.activity_id)
            for told in self.told
            if told.run is not None and told.method in _OUTCOMES
        }

    def counts(self) -> Counter[str]:
        return Counter(told.method for told in self.told)


def _subject_of(event: Happening) -> tuple[object, ...]:
    match event:
        case ActivityEvent():
            return event.activity_id, event.attempt
        case TimerEvent():
            return (event.timer_id,)
        case MessageEvent():
            return event.activity_id, event.message_id
        case _:
            return ()


class ReplayWatch(Watch):
    replays = True


def _keeper(name: str) -> Callable[..., None]:
    def keep(self: Watch, *args: RunRef | Happening | None) -> None:
        run = args[0] if len(args) == 2 else None
        assert run is None or isinstance(run, RunRef)
        self._keep(Told(name, run, args[-1]))

    return keep


for _method in METHODS:
    setattr(Watch, _method, _keeper(_method))


class Hostile(Watch):
    """Raise, of everything that is told, what could do most harm."""

    def _keep(self, told: Told) -> None:
        super()._keep(told)
        raise (SystemExit, KeyboardInterrupt, RuntimeError)[len(self.told) % 3](told.method)


class Stuck(Watch):
    """Never return from what is told first, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def _keep(self, told: Told) -> None:
        super()._keep(told)
        self.gate.wait()
