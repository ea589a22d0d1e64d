"""An App for tests: in memory, on a clock that stands still while something is done and skips what nobody works in."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from romancy.app import App
from romancy.core.clock import MICROSECONDS
from romancy.core.events import EventKind
from romancy.core.records import InstanceFilter
from romancy.storage.urls import storage_at
from romancy.testing.stubs import Stub, acting
from romancy.testing.watched_storage import WatchedStorage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    from romancy.client.handle import Handle
    from romancy.client.info import HistoryEvent
    from romancy.client.waiting import Waiters
    from romancy.core.clock import Clock
    from romancy.core.definitions import Activity
    from romancy.core.records import Entry
    from romancy.storage.protocol import Storage
    from romancy.worker.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LONG = timedelta(days=100_000)
_QUIET_CYCLES = 5
"""Cycles of the event loop in which nothing happens, after which nothing will: who is woken acts in the next one."""
_SPINS = 200
_PAUSE = 0.0005
_PATIENCE = 1.0
"""Seconds for which somebody may wait for what will not come by itself: the test may be about to do something."""


class _StandingClock:
    """A clock that moves only when it is told to."""

    def __init__(self, start: datetime) -> None:
        self.instant = (start - _EPOCH) // _MICROSECOND

    def now(self) -> int:
        return self.instant


class _TestApp(App):
    """An App whose worker can die and be replaced, while its client stays.

    Attributes:
        asked: What the client asks of the storage.
        worked: What the present worker asks of it.
    """

    def __init__(
        self, inner: Storage, clock: Clock, stand_ins: Mapping[str, Callable[..., Awaitable[object]]], **settings: Any
    ) -> None:
        self._inner = inner
        self._standing_clock = clock
        self._stand_ins = stand_ins
        self.asked = WatchedStorage(inner)
        self.worked = WatchedStorage(inner)
        super().__init__(self.asked.storage, clock=clock, **settings)

    def _make_worker(self, storage: Storage, clock: Clock, listener: Waiters) -> Worker:  # noqa: ARG002 - it has its own
        self.worked = WatchedStorage(self._inner)
        return super()._make_worker(self.worked.storage, clock, listener)

    async def replace_worker(self) -> None:
        """Let the worker die, and begin another one, to which everything is free that the dead one had."""
        dead = self.worker
        if dead is None:
            return
        self.worked.is_dead = True
        session = dead.session
        await dead.abandon()
        if session is not None:
            await self._inner.close_session(session)
        self._worker = self._make_worker(self._inner, self._standing_clock, self.client.waiters)
        self.client.work_with(self._worker)
        await self._worker.start()


class TestEnvironment:
    """An App in memory whose time skips: while a test waits for a result, time jumps to whatever is next due.

    ::

        async def test_reminder_after_a_month() -> None:
            async with TestEnvironment() as env:
                sent = env.stub(send_mail, returns=None)
                handle = await env.app.start(remind("ann"))
                await handle.result()
                sent.assert_called_once_with("ann", "a month has passed")
                assert env.now == env.started + timedelta(days=30)

    Time stands still while anything is under way, the test itself included: it moves only while somebody waits for a
    result (``handle.result()``, ``app.run``) and nothing can go on, and by `advance`. What activities wait for in
    reality takes real time: stub them.

    Attributes:
        app: The App: start, send, wait as in production.
        started: When the environment's time began.
    """

    __test__ = False  # pytest need not look for tests in it

    app: App

    def __init__(
        self,
        *,
        start: datetime = datetime(2030, 1, 1, tzinfo=UTC),
        replay_always: bool = False,
        **settings: Any,
    ) -> None:
        """Prepare.

        Args:
            start: When the environment's time begins, an aware datetime.
            replay_always: Let every run leave memory at every wait and come back by replay: it finds what a replay does
                not repeat.
            settings: Further arguments of `App`, such as ``workflows`` or ``retry``.
        """
        self.started = start
        self._clock = _StandingClock(start)
        self._stubs: dict[str, Stub[..., Any]] = {}
        self._storage = storage_at("sqlite://", self._clock)
        given: dict[str, Any] = {"session_ttl": _LONG, "instance_retention": None}
        if replay_always:
            given["hot_limit"] = 0
        self._app = self.app = _TestApp(self._storage, self._clock, self._stubs, **given | settings)
        self._actions: list[tuple[int, int, Callable[[], Awaitable[object]]]] = []
        self._numbers = itertools.count()
        self._skipping: asyncio.Task[None] | None = None
        self._crashing: asyncio.Task[None] | None = None
        self._moving = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._storage.open()
        await self._app.__aenter__()
        self._skipping = asyncio.create_task(self._skip_for_ever())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in (self._skipping, self._crashing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        try:
            await self._app.__aexit__(exc_type, exc, traceback)
        finally:
            await self._storage.close()

    # -- time -------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The environment's time, an aware UTC datetime."""
        return _EPOCH + timedelta(microseconds=self._clock.instant)

    async def advance(self, by: timedelta | float) -> None:
        """Let a time pass, step by step: everything that is due in it happens when it is due, in its order.

        Args:
            by: How much: a timedelta, or seconds.
        """
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        if seconds < 0:
            msg = f"advance({by!r}): time does not go back"
            raise ValueError(msg)
        target = self._clock.instant + round(seconds * MICROSECONDS)
        async with self._moving:
            await self.settle()
            while (due := self._next_due()) is not None and due <= target:
                await self._move(due)
            await self._move(target)

    async def settle(self) -> None:
        """Wait until nothing can go on before time does: no turn, commit or activity is under way."""
        quiet = spins = 0
        while quiet < _QUIET_CYCLES:
            if self._app.worked.under_way or self._app.asked.under_way:
                await self._app.worked.idle()
                await self._app.asked.idle()
                quiet = 0
            spins += 1
            await asyncio.sleep(0 if spins < _SPINS else _PAUSE)
            quiet = 0 if self._is_busy() else quiet + 1

    def after(self, delay: timedelta | float, action: Callable[[], Awaitable[object]]) -> None:
        """Do something at a later time of the environment: ``env.after(3600, lambda: handle.send(answers, "yes"))``.

        Args:
            delay: From now on: a timedelta, or seconds.
            action: Called, and awaited, when that time has come.
        """
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        at = self._clock.instant + round(seconds * MICROSECONDS)
        heapq.heappush(self._actions, (at, next(self._numbers), action))

    def _is_busy(self) -> bool:
        app, crashing = self._app, self._crashing
        is_working = app.worker is not None and app.worker.is_busy
        is_dying = crashing is not None and not crashing.done()
        return is_working or is_dying or app.asked.under_way > 0 or app.worked.under_way > 0

    def _next_due(self) -> int | None:
        worker = self._app.worker
        known = [self._actions[0][0]] if self._actions else []
        if worker is not None and worker.next_due is not None:
            known.append(worker.next_due)
        return min(known, default=None)

    async def _move(self, instant: int) -> None:
        """Set the clock, if that is forward, do what is due, and let it come to rest."""
        self._clock.instant = max(self._clock.instant, instant)
        while self._actions and self._actions[0][0] <= self._clock.instant:
            _, _, action = heapq.heappop(self._actions)
            await action()
        if self._app.worker is not None:
            self._app.worker.clock_moved()
        await self.settle()

    async def _skip_for_ever(self) -> None:
        """Jump to what is next due whenever somebody waits and nothing can go on."""
        stalled_at: float | None = None
        waiters = self._app.client.waiters
        while True:
            if not waiters.is_used:
                stalled_at = None
                await asyncio.sleep(_PAUSE)
                continue
            async with self._moving:
                await self.settle()
                while waiters.is_used and (due := self._next_due()) is not None:
                    stalled_at = None
                    await self._move(due)
            stalled_at = stalled_at or time.monotonic()
            if waiters.is_used and time.monotonic() - stalled_at > _PATIENCE:
                waiters.give_up(await self._why_stalled())
                stalled_at = None
            await asyncio.sleep(_PAUSE)

    async def _why_stalled(self) -> str:
        told: list[str] = []
        for row in await self._storage.list(InstanceFilter()):
            if not row.status.is_closed:
                handle = await self._app.get(row.id)
                info = await handle.info()
                waits = ", ".join(f"{wait['kind']} {wait['id']}" for wait in info.waiting_on) or "nothing that is known"
                told.append(f"{row.id!r} ({info.status}) waits for {waits}")
        return (
            f"nothing will ever go on: {'; '.join(told) or 'there are no open instances'}; send what is missing first"
        )

    # -- what has happened ------------------------------------------------------------------------------

    async def history(self, handle: Handle[Any]) -> list[HistoryEvent]:
        """Return what an instance's latest run has recorded, in order."""
        return await handle.history()

    # -- stubs ------------------------------------------------------------------------------------------

    @overload
    def stub(self, activity: Activity[P, R], *, returns: R) -> Stub[P, R]: ...
    @overload
    def stub(self, activity: Activity[P, R], *, raises: BaseException | type[BaseException]) -> Stub[P, R]: ...
    @overload
    def stub(self, activity: Activity[P, R], *, calls: Callable[P, Awaitable[R]]) -> Stub[P, R]: ...
    @overload
    def stub(self, activity: Activity[P, R], *, calls: Callable[P, R]) -> Stub[P, R]: ...

    def stub(
        self,
        activity: Activity[P, Any],
        *,
        returns: object = None,
        raises: BaseException | type[BaseException] | None = None,
        calls: Callable[P, object] | None = None,
    ) -> Stub[P, Any]:
        """Have something else done instead of an activity, in this environment, from its next attempt on.

        Args:
            activity: The activity.
            returns: What it returns; it is checked against the activity's annotation, as a result is.
            raises: What it raises, every time; the retry policy applies.
            calls: A function or coroutine function that is called instead.

        Returns:
            The stub, which knows how it was called.
        """
        stub: Stub[P, Any] = Stub(activity, acting(returns, raises, calls))
        self._stubs[activity.name] = stub
        return stub

    # -- crashes ----------------------------------------------------------------------------------------

    async def crash(self) -> None:
        """Let the worker die at once, as by SIGKILL, and another one go on: what was not recorded is gone."""
        await self._app.replace_worker()

    def crash_at(self, activity_id: str) -> None:
        """Let the worker die once, when it is about to record the result of an activity whose body has run.

        Args:
            activity_id: The activity's id in its run, such as ``"2:charge"``.
        """

        def strike(entries: Sequence[Entry]) -> bool:
            kinds = {EventKind.ACTIVITY_COMPLETED, EventKind.ACTIVITY_FAILED}
            return any(note.activity_id == activity_id and note.kind in kinds for e in entries for note in e.notes)

        self._app.worked.strike = strike
        self._app.worked.on_death = self._begin_to_crash

    def _begin_to_crash(self) -> None:
        self._crashing = asyncio.create_task(self.crash())
