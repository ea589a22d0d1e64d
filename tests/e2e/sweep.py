"""Let every storage call of a scenario fail in turn, and compare how the scenario ends with how it ends undisturbed."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar, cast

from romancy import App, StorageError, WorkflowFailedError, activity_info
from romancy.client.handle import Handle
from romancy.core.calls import Call
from romancy.core.definitions import Workflow
from romancy.core.events import Event, EventKind
from romancy.core.records import InstanceFilter
from romancy.storage.protocol import Storage
from romancy.storage.urls import storage_at

from .faults import Fault, FaultyStorage, OffsetClock, insist
from .watching import Watch

R = TypeVar("R")

_LONG = 60.0
"""Seconds after which every session of a dead process has expired."""
WORLDS = [("sqlite", 10_000), ("sqlite", 0), ("postgres", 0)]
"""Back ends and hot limits for sweeps on both; on PostgreSQL, where they take long, only where all is claimed anew."""

_VOLATILE = ("at", "retry_at", "message_id", "traceback", "notes")


@dataclass
class World:
    """What activities have done, and which of them are recorded."""

    effects: Counter[str] = field(default_factory=Counter[str])
    recorded: set[tuple[int, int, str]] = field(default_factory=set[tuple[int, int, str]])
    repeated: list[str] = field(default_factory=list[str])


_world = World()


def act(effect: str) -> None:
    """Note what an activity does to the world, and whether that activity was recorded before."""
    info = activity_info()
    execution, run, _ = info.idempotency_key.split("/", 2)
    if (int(execution, 16), int(run), info.activity_id) in _world.recorded:
        _world.repeated.append(info.activity_id)
    _world.effects[effect] += 1


class Scenario(NamedTuple):
    """What is played in every universe.

    ``play`` returns something comparable that is the same however often storage fails: it asks again
    (`faults.insist`), starts with ``on_conflict="attach"`` and sends with message ids. ``session_ttl`` is short for one
    that sets the clock forward, so that the worker soon notes that its session has expired.
    """

    workflows: Sequence[Workflow[..., Any]]
    play: Callable[[App], Awaitable[Any]]
    session_ttl: timedelta = timedelta(seconds=10)


MakeStorage: TypeAlias = Callable[[OffsetClock], Storage]
_in_memory: MakeStorage = partial(storage_at, "sqlite://")


class Universe:
    """One database, the processes that use it one after the other, and what they did."""

    def __init__(self, clock: OffsetClock, hot_limit: int, make: MakeStorage = _in_memory) -> None:
        self._clock = clock
        self._hot_limit = hot_limit
        self.database = make(clock)
        self.world = World()
        self.watch = Watch()
        self.processes: list[FaultyStorage] = []

    async def __aenter__(self) -> Self:
        global _world  # noqa: PLW0603 - activities are functions without a place for it
        await self.database.open()
        _world = self.world
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()

    async def untold(self) -> list[tuple[str, int, str | None]]:
        """Return the outcomes of activities that are recorded, and that nobody was told of."""
        recorded = [
            (f"{instance.execution_id:016x}", run, event.activity_id)
            for instance in await self.database.list(InstanceFilter())
            for run in range(instance.run + 1)
            for event in _own(await self.database.history(instance.key, run=run))
            if event.kind in {EventKind.ACTIVITY_COMPLETED, EventKind.ACTIVITY_FAILED}
        ]
        told = self.watch.outcomes()
        return [each for each in recorded if each not in told]

    async def play(
        self, scenario: Scenario, *, fail_at: int = 0, fault: Fault = Fault.BEFORE, is_mortal: bool = False
    ) -> Any:
        """Play a scenario to its end, in as many processes as it takes."""
        while True:
            process = FaultyStorage(
                self.database,
                fail_at=fail_at,
                fault=fault,
                is_mortal=is_mortal,
                recorded=self.world.recorded,
            )
            self.processes.append(process)
            outcome = await self._live(process, scenario)
            if outcome is not None:
                return outcome
            fail_at = 0
            self._clock.advance(_LONG)

    async def _live(self, process: FaultyStorage, scenario: Scenario) -> Any:
        """Run one process; None if it dies, or does not come up."""
        app = App(
            process.storage,
            workflows=scenario.workflows,
            clock=self._clock,
            hot_limit=self._hot_limit,
            grace=timedelta(0) if process.is_mortal else timedelta(seconds=5),
            poll_interval=timedelta(milliseconds=20),
            session_ttl=scenario.session_ttl,
            hooks=[self.watch],
        )
        try:
            async with app:
                playing = asyncio.ensure_future(scenario.play(app))
                dying = asyncio.create_task(process.died.wait())
                try:
                    await asyncio.wait([playing, dying], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    dying.cancel()
                    if not playing.done():
                        playing.cancel()
                    await asyncio.wait([playing, dying])
                if process.died.is_set():
                    await asyncio.gather(playing, return_exceptions=True)
                    return None
                return playing.result()
        except StorageError:
            if not process.has_failed:
                raise
            return None


async def sweep(
    scenario: Scenario,
    clock: OffsetClock,
    hot_limit: int,
    *,
    fault: Fault,
    is_mortal: bool,
    at_least: int = 10,
    make: MakeStorage = _in_memory,
    every: int = 1,
) -> None:
    """Play a scenario once undisturbed, and then once for each storage call, which fails.

    Checks that the outcome and the set of effects are the same every time, and that nothing that was recorded is done
    again, and nothing told twice. Parametrize the test over ``fault`` (`Fault`), ``is_mortal`` and ``hot_limit``.

    Args:
        scenario: What to play.
        clock: The clock of all processes; it is set forward when one has died.
        hot_limit: As of `App`.
        fault: Whether the call fails before it is done, or after it, with the acknowledgement lost.
        is_mortal: The process dies of it, and another one takes over.
        at_least: How many calls the scenario has for certain.
        make: Makes the database of each universe.
        every: Let only every so many-th call fail, beginning with the first.
    """
    async with Universe(clock, hot_limit, make) as undisturbed:
        expected = await undisturbed.play(scenario)
        effects = undisturbed.world.effects
        assert await undisturbed.untold() == []
    for fail_at in itertools.count(1, every):
        async with Universe(clock, hot_limit, make) as universe:
            outcome = await universe.play(scenario, fail_at=fail_at, fault=fault, is_mortal=is_mortal)
            first = universe.processes[0]
            where = f"call {fail_at}: {first.calls[-1] if is_mortal else first.calls[fail_at - 1 : fail_at]}"
            assert outcome == expected, f"{where}\n{outcome}\n{expected}"
            assert not universe.world.repeated, where
            assert not universe.watch.repeated(), (where, universe.watch.repeated())
            assert set(universe.world.effects) == set(effects), where
            if not is_mortal and len(universe.processes) == 1:
                assert universe.world.effects == effects, f"{where}\n{universe.world.effects}\n{effects}"
            if not first.has_failed:
                assert fail_at > at_least
                return


def _own(events: Sequence[Event]) -> Sequence[Event]:
    """Leave out what was copied from another instance."""
    kinds = [event.kind for event in events]
    return events[kinds.index(EventKind.RUN_RESUMED) :] if EventKind.RUN_COPIED in kinds else events


async def begin(app: App, make_call: Callable[[], Call[R]], id: str, **options: Any) -> Handle[R]:
    """Start an instance, or find it started; a call can be used once, so every try makes its own."""
    return await insist(lambda: app.start(make_call(), id=id, on_conflict="attach", **options))


async def outcome_of(handle: Handle[Any]) -> str:
    """Wait for an instance's end, and return how it ended as text."""
    try:
        return repr(await insist(handle.result))
    except WorkflowFailedError as exc:
        return f"{type(exc).__name__}({exc})"


async def events_of(handle: Handle[Any]) -> list[tuple[str, str | None, str]]:
    """Return what is recorded, without times and order: activities side by side may end in any."""
    events = await insist(handle.history)
    assert [event.seq for event in events] == list(range(len(events)))
    return sorted((event.kind, event.activity_id or "", _without_times(event.payload or "null")) for event in events)


def _without_times(payload: str) -> str:
    return json.dumps(_stable(json.loads(payload)), sort_keys=True)


def _stable(value: Any) -> Any:
    """Leave out, at any depth, what differs from one universe to the next."""
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return {name: _stable(fields[name]) for name in fields if name not in _VOLATILE}
