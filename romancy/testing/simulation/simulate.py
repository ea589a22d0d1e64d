"""Playing one seed: the processes, what befalls them, and what must hold in the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from romancy.app import App
from romancy.core import registry
from romancy.core.clock import MICROSECONDS
from romancy.core.events import EventKind
from romancy.core.records import InstanceFilter, Status
from romancy.errors import InstanceClosedError, RomancyError, StorageError
from romancy.testing.simulation import programs
from romancy.testing.simulation.loop import SimulatedLoop, virtual
from romancy.testing.simulation.programs import Program, World, expected, jobs, letters, make_node, program
from romancy.testing.simulation.storage import ProcessStorage, SimulatedDatabase

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_BEGIN = 1_900_000_000 * MICROSECONDS
_LONGEST = 5_000.0
"""Seconds of virtual time after which a simulation has gone wrong."""
_ENDS = frozenset({EventKind.ACTIVITY_COMPLETED, EventKind.ACTIVITY_FAILED})
_EMPTY = ("heartbeats", "waits", "subscriptions", "sessions")


class Broken(AssertionError):
    """Something does not hold that must."""


class _Clock:
    """The database's clock: the loop's, moved by jumps."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.jumped = 0.0

    def now(self) -> int:
        return _BEGIN + round((self._loop.time() + self.jumped) * MICROSECONDS)


class _Process:
    """One process with a worker, that dies and is started again."""

    def __init__(self, universe: _Universe, number: int) -> None:
        self._universe = universe
        self._number = number
        self.app: App | None = None
        self.storage: ProcessStorage | None = None

    async def start(self) -> None:
        """Open an App, as often as it takes."""
        while self.app is None:
            try:
                await self._open()
            except StorageError:
                await asyncio.sleep(0.5)

    async def _open(self) -> None:
        universe = self._universe
        storage = universe.way()
        app = App(
            storage.storage,
            workflows=[programs.program, programs.part, programs.failing_part],
            clock=universe.clock,
            hot_limit=universe.chance.choice((0, 1, 5, 10_000)),
            max_activities=universe.chance.choice((1, 3, 1_000)),
            poll_interval=timedelta(seconds=5),
            session_ttl=timedelta(seconds=10),
            grace=timedelta(seconds=universe.chance.choice((0, 1))),
            max_recoveries=1_000_000,
            build=f"build {self._number}",
        )
        await app.__aenter__()
        self.app, self.storage = app, storage

    async def die(self) -> None:
        """End at once: what was asked of the database happens or not, and nobody says goodbye."""
        app, storage, self.app = self.app, self.storage, None
        if app is None or storage is None:
            return
        storage.is_dead = True
        await app.abandon()

    async def leave(self) -> None:
        """End in order."""
        app, self.app = self.app, None
        if app is not None:
            await app.__aexit__(None, None, None)


class _Universe:
    """One seed's database, processes and programs."""

    def __init__(self, seed: int, loop: SimulatedLoop) -> None:
        self.chance = random.Random(seed)
        self.clock = _Clock(loop)
        self.database = SimulatedDatabase(self.clock)
        self._delay = self.chance.choice((0.0, 0.001, 0.05, 0.5))
        self._failures = self.chance.choice((0.0, 0.0, 0.01, 0.1))
        self.is_calm = False
        self.processes = [_Process(self, number) for number in range(self.chance.randint(1, 3))]
        self.programs: dict[str, Program] = {}

    def way(self) -> ProcessStorage:
        """Return a new process's way to the database."""
        failures = 0.0 if self.is_calm else self._failures
        return ProcessStorage(self.database, self.chance, delay=self._delay, failures=failures)

    def plan(self) -> None:
        """Make the programs, and who writes to whom."""
        chance = self.chance
        names = [f"i{number}" for number in range(chance.randint(1, 5))]
        reads = dict.fromkeys(names, 0)
        writes: dict[str, tuple[str, int]] = {}
        for name in names:
            target = chance.choice(names)
            writes[name] = (target, chance.choice((0, 0, 1, 4)) if target != name else 0)
            reads[target] += writes[name][1]
        for name in names:
            end = chance.choice(("well", "well", "fails", "cancelled"))
            parts = tuple(make_node(chance) for _ in range(chance.randint(0, 3)))
            outside = chance.choice((0, 0, 3))
            taken = chance.choice((0, 0, 2))
            self.programs[name] = Program(parts, end, reads[name] + outside, *writes[name], taken)
            self.outside = {**getattr(self, "outside", {}), name: outside}

    async def play(self) -> None:
        """Play it to its end, and look at what has come of it."""
        await self.database.open()
        self.plan()
        for process in self.processes:
            await process.start()
        troubling = asyncio.create_task(self._trouble())
        try:
            async with asyncio.timeout(_LONGEST):
                await self._drive()
        except TimeoutError:
            raise Broken(f"it does not end: {await self._open()}") from None
        finally:
            troubling.cancel()
            await asyncio.wait([troubling])
        await self._calm_down()
        await self._check()
        for process in self.processes:
            await process.leave()
        self.clock.jumped += 60.0
        await self.database.reap_sessions()
        self._check_rows()
        await self.database.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        stuck = [task for task in left if "simulation" not in repr(task.get_coro())]
        _expect(
            not stuck or any(p.storage is not None and p.storage.is_dead for p in self.processes), f"tasks: {stuck}"
        )

    # -- what befalls -----------------------------------------------------------------------------------

    async def _trouble(self) -> None:
        """Let processes die, stop and start, and the clock jump, for some time."""
        chance = self.chance
        for _ in range(chance.choice((0, 2, 8))):
            await asyncio.sleep(chance.expovariate(1 / chance.choice((0.01, 1.0, 20.0))))
            process = chance.choice(self.processes)
            match chance.choice(("die", "die", "stop", "jump", "leave", "pause")):
                case "die":
                    await process.die()
                    await asyncio.sleep(chance.choice((0.0, 1.0, 15.0)))
                    await process.start()
                case "leave":
                    await process.leave()
                    await process.start()
                case "stop" if process.storage is not None:
                    process.storage.stop(chance.choice((1.0, 9.0, 30.0)))
                case "pause":
                    name = chance.choice(list(self.programs))
                    with contextlib.suppress(RomancyError):
                        await self.database.pause(name)
                        await asyncio.sleep(chance.expovariate(1 / 5))
                        await self.database.unpause(name)
                case _:
                    self.clock.jumped += chance.choice((0.5, 8.0, 30.0, -0.5))

    async def _calm_down(self) -> None:
        self.is_calm = True
        for process in self.processes:
            if process.storage is not None:
                process.storage.failures = 0.0
            if process.app is None:
                await process.start()

    async def _drive(self) -> None:
        """Start the programs, send what they wait for, and wait until all have ended."""
        async with App(self.way().storage, worker=False, clock=self.clock) as client:
            for name, plan in self.programs.items():
                await _insist(partial(self._begin, client, name, plan))
                for number in range(self.outside[name]):
                    letter = ["out", number]
                    await _insist(partial(client.send, letters, letter, to=name, message_id=f"{number}"))
            for number in range(sum(plan.jobs for plan in self.programs.values())):
                await _insist(partial(client.publish, jobs, number, message_id=f"{number}"))
            cancelled = [name for name, plan in self.programs.items() if plan.end == "cancelled"]
            while True:
                rows = await self.database.list(InstanceFilter())
                for name in [name for name in cancelled if self._is_asleep(name)]:
                    cancelled.remove(name)
                    with contextlib.suppress(InstanceClosedError):
                        await _insist(partial(client.cancel, name, "enough"))
                if not cancelled and all(row.status.is_closed for row in rows):
                    return
                blocked = [row for row in rows if row.status is Status.BLOCKED]
                _expect(not blocked, f"{[(row.id, row.reason) for row in blocked]} blocked")
                await asyncio.sleep(3.0)

    @staticmethod
    async def _begin(client: App, name: str, plan: Program) -> None:
        await client.start(program(msgspec.to_builtins(plan)), id=name, on_conflict="attach")

    def _is_asleep(self, name: str) -> bool:
        """Tell whether a program has come to where it waits to be cancelled."""
        found = self.database.rows(
            "SELECT count(*) FROM history h JOIN instances i ON i.key = h.key AND i.run = h.run"
            f" WHERE i.id = '{name}' AND i.run = {len(self.programs[name].parts)}"
            f" AND h.activity_id LIKE '%simulation.do' AND h.kind = {EventKind.ACTIVITY_COMPLETED:d}"
        )
        return bool(found[0][0] >= 3)

    async def _open(self) -> list[tuple[Any, ...]]:
        return self.database.rows(
            "SELECT id, status, run, next_seq, session, wake_at, waiting_on FROM instances WHERE closed_at IS NULL"
        )

    # -- what must hold ---------------------------------------------------------------------------------

    async def _check(self) -> None:
        taken: list[int] = []
        for name, plan in self.programs.items():
            row = await self.database.get(name)
            _expect(row is not None, f"{name} is gone")
            if row is None:
                continue
            events = await self.database.history(row.key)
            _expect([event.seq for event in events] == list(range(len(events))), f"{name}: gaps in its history")
            if plan.end == "well":
                _expect(row.status is Status.COMPLETED, f"{name} is {row.status.name}: {events[-1].payload!r}")
                results, got, its = msgspec.json.decode(events[-1].payload or b"")
                _expect(results == [expected(node) for node in plan.parts], f"{name}: {results}")
                self._check_letters(name, got)
                taken += its
            else:
                wanted = Status.FAILED if plan.end == "fails" else Status.CANCELLED
                _expect(row.status is wanted, f"{name} is {row.status.name}: {events[-1].payload!r}")
                self._check_undone(name, events)
                if plan.jobs or plan.reads:
                    continue
        numbers = range(sum(plan.jobs for plan in self.programs.values()))
        _expect(len(set(taken)) == len(taken) and set(taken) <= set(numbers), f"jobs: {taken}")
        twice = self.database.rows(
            f"SELECT key, run, activity_id FROM history WHERE kind IN ({', '.join(f'{k:d}' for k in sorted(_ENDS))})"
            " GROUP BY key, run, activity_id HAVING count(*) > 1"
        )
        _expect(not twice, f"recorded twice: {twice}")

    def _check_letters(self, name: str, got: list[list[Any]]) -> None:
        """Check that each sender's letters have come in their order, all of them and once."""
        outside = [number for sender, number in got if sender == "out"]
        _expect(outside == list(range(self.outside[name])), f"{name}: letters from outside {outside}")
        for writer, plan in self.programs.items():
            its = [number for sender, number in got if sender == writer]
            wanted = list(range(plan.writes)) if plan.writes_to == name else []
            _expect(its == wanted, f"{name}: letters of {writer} {its}")

    def _check_undone(self, name: str, events: list[Any]) -> None:
        """Check that what was done is undone once, in the reverse order."""
        done = [
            event.payload
            for event in events
            if event.kind == EventKind.ACTIVITY_COMPLETED and event.activity_id.endswith("simulation.do")
        ]
        started = [event for event in events if event.kind == EventKind.COMPENSATION_STARTED]
        ended = [
            event.activity_id
            for event in events
            if event.kind == EventKind.ACTIVITY_COMPLETED and event.activity_id.endswith("simulation.undo")
        ]
        _expect(len(done) == 3, f"{name}: done {done}")
        _expect([event.activity_id for event in started] == ended, f"{name}: undone {ended}")
        order = [msgspec.json.decode(event.payload) for event in started]
        finished = [
            event.activity_id
            for event in events
            if event.kind == EventKind.ACTIVITY_COMPLETED and event.activity_id.endswith("simulation.do")
        ]
        _expect(order == finished[::-1], f"{name}: done {finished}, undone {order}")

    def _check_rows(self) -> None:
        for table in _EMPTY:
            found = self.database.rows(f"SELECT * FROM {table}")
            _expect(not found, f"rows left in {table}: {found[:3]}")
        owned = self.database.rows("SELECT id FROM instances WHERE session IS NOT NULL OR closed_at IS NULL")
        _expect(not owned, f"owned or open: {owned}")


def _expect(condition: bool, message: str) -> None:  # noqa: FBT001 - as assert
    if not condition:
        raise Broken(message)


async def _insist(ask: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await ask()
        except StorageError:
            await asyncio.sleep(0.1)


def simulate(seed: int) -> None:
    """Play one seed.

    Raises:
        Broken: Something does not hold; the message says what, with the seed.
    """
    loop = SimulatedLoop()
    programs.world = World()
    level, opened = logging.getLogger("romancy").level, registry.opened()
    logging.getLogger("romancy").setLevel(logging.CRITICAL + 1)
    try:
        with virtual(loop, seed):
            asyncio.set_event_loop(None)
            loop.run_until_complete(_Universe(seed, loop).play())
    except Exception as exc:
        msg = f"seed {seed}: {type(exc).__name__}: {exc}"
        raise Broken(msg) from exc
    finally:
        logging.getLogger("romancy").setLevel(level)
        registry.reset_opened(opened)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        with contextlib.suppress(Exception):
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
