"""What a run may have to undo, and undoing it: for a saga block that fails, and at the end of a run that fails."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import msgspec

from romancy.core.calls import ActivityCall, Call
from romancy.core.events import EventKind, Note
from romancy.core.failures import Failure, failure_of
from romancy.errors import CompensationError
from romancy.replay.bugs import is_bug

if TYPE_CHECKING:
    from collections.abc import Iterator

    from romancy.replay.execution import Execution


_encode = msgspec.json.Encoder().encode


class Block:
    """A part of the code that is undone on its own.

    Attributes:
        parent: The block around it; None: the run.
        failures: Its compensations that failed for good.
        last: The ids of what it still undoes, if a cancel has ended its patience; None: all that is done in it.
    """

    __slots__ = ("failures", "last", "parent")

    def __init__(self, parent: Block | None = None) -> None:
        self.parent = parent
        self.failures: list[CompensationError] = []
        self.last: frozenset[str] | None = None

    def is_within(self, other: Block) -> bool:
        """Tell whether the block is another, or is opened in it."""
        block: Block | None = self
        while block is not None and block is not other:
            block = block.parent
        return block is not None

    def holds(self, call: Call[object]) -> bool:
        """Tell whether a call was made in the block, or in one within it, and is for the block to undo."""
        block: object = getattr(call, "block", None)
        is_inside = isinstance(block, Block) and block.is_within(self)
        return is_inside and (self.last is None or call.activity_id in self.last)


UNDOING = Block()
"""The block of calls that undo something: they are not undone themselves."""

current_block: contextvars.ContextVar[Block | None] = contextvars.ContextVar("romancy_saga", default=None)


class Armed:
    """A call that has a compensation, or with ``is_itself`` is one; ``failure`` is set if it ended without a result."""

    __slots__ = ("call", "failure", "is_itself", "result")

    def __init__(self, call: Call[object], result: object = None, *, is_itself: bool = False) -> None:
        self.call = call
        self.result = result
        self.is_itself = is_itself
        self.failure: Failure | None = None


class Undoing:
    """Keep what a run would have to undo, in the order of arming, and undo it in the reverse order.

    What is in flight is waited for before each compensation: it may come to be armed, and would then be the last.
    Everything here is derived from the run's history, so that a run which comes back by replay goes on where it was.

    Attributes:
        armed: What would have to be undone, by activity id; a block that failed has taken its own out.
        failures: What went wrong: compensations that failed for good, and calls of which it is not known what they did.
        waits: The futures of those who wait until nothing in flight can be armed any more, each with its block.
        tasks: Those that undo blocks, each with its block: they are waited for, not cancelled.
        has_blocks: Whether calls have to be marked with their block.
        is_due: Whether `recur` has asked to undo everything first.
    """

    __slots__ = ("_run", "_uncertain", "armed", "failures", "has_blocks", "is_due", "tasks", "waits")

    def __init__(self, run: Execution) -> None:
        self._run = run
        # Tuples: every run in memory has these, and hardly any uses them.
        self._uncertain: tuple[Armed, ...] = ()
        self.armed: dict[str, Armed] = {}
        self.failures: tuple[Failure, ...] = ()
        self.waits: tuple[tuple[Block | None, asyncio.Future[None]], ...] = ()
        self.tasks: tuple[tuple[Block, asyncio.Task[None]], ...] = ()
        self.has_blocks = False
        self.is_due = False

    # -- arming -----------------------------------------------------------------------------------------

    def attempted(self, call: ActivityCall[object]) -> None:
        """Note that an activity is asked for which is armed from then on."""
        if _is_undoable(call):
            self.armed[call.activity_id] = Armed(call)

    def retracted(self, call: ActivityCall[object]) -> None:
        """Note that an activity has not been asked for after all."""
        self.armed.pop(call.activity_id, None)

    def completed(self, call: ActivityCall[object], result: object) -> None:
        """Note an activity's result."""
        armed = self.armed.get(call.activity_id)
        if armed is not None:
            armed.result = result
        elif _is_undoable(call):
            self.armed[call.activity_id] = Armed(call, result)

    def failed(self, call: ActivityCall[object], failure: Failure) -> None:
        """Note that an activity has ended without a result."""
        armed = self.armed.get(call.activity_id)
        if armed is not None:
            armed.failure = failure
        elif failure.kind is not None and _is_undoable(call):  # out of time: it may have done its work all the same
            uncertain = Armed(call)
            uncertain.failure = failure
            self._uncertain += (uncertain,)

    def register(self, call: Call[object]) -> None:
        """Arm a call that is to be made if what is done now has to be undone."""
        call.block = current_block.get()
        self.armed[call.activity_id] = Armed(call, is_itself=True)

    # -- what is to be done -----------------------------------------------------------------------------

    def has_work(self, block: Block | None = None) -> bool:
        """Tell whether anything of a block (None: of the run) is armed, or may come to be."""
        return self._last(block) is not None or self._is_unsettled(block) or bool(self._tasks_within(block))

    def _last(self, block: Block | None) -> Armed | None:
        for armed in reversed(self.armed.values()):
            if block is None or block.holds(armed.call):
                return armed
        return None

    def _is_unsettled(self, block: Block | None) -> bool:
        return any(block is None or block.holds(call) for call in self._in_flight())

    def _in_flight(self) -> Iterator[ActivityCall[object]]:
        return (call for call in self._run.operations.activities() if _is_undoable(call))

    def _tasks_within(self, block: Block | None) -> list[asyncio.Task[None]]:
        """Return those that undo the blocks within a block; at the end of a run there are none left."""
        return [
            task
            for other, task in self.tasks
            if block is not None and other is not block and other.is_within(block) and not task.done()
        ]

    def is_one_of(self, task: asyncio.Task[Any]) -> bool:
        """Tell whether a task undoes a block."""
        return any(each is task for _, each in self.tasks)

    def settle(self) -> bool:
        """Let those go on who wait for the last in flight of a block, if it has ended; tell whether there are any.

        To be called when nothing else in the run can go on: what has ended may have been followed by another.
        """
        waits, self.waits = self.waits, ()
        has_settled = False
        for block, future in waits:
            if self._is_unsettled(block):
                self.waits += ((block, future),)
            elif not future.done():
                future.set_result(None)
                has_settled = True
        return has_settled

    # -- undoing ----------------------------------------------------------------------------------------

    async def undo_block(self, block: Block, *, is_cancelled: bool) -> None:
        """Undo what was done in a block that has failed, in a task of its own.

        Args:
            block: It.
            is_cancelled: A cancel is what leaves it, and will not come again.

        Raises:
            asyncio.CancelledError: The waiting task was cancelled meanwhile; everything is undone all the same.
        """
        if not self.has_work(block):
            return
        if is_cancelled:
            self._limit(block)
        loop = self._run.loop
        task = loop.create_task(self.undo(block), name="undo")
        self.tasks += ((block, task),)
        interruption: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as exc:
                interruption = exc
                self._limit(block)
        self.tasks = tuple(other for other in self.tasks if other[1] is not task)
        task.result()
        if interruption is not None:
            raise interruption

    def _limit(self, block: Block) -> None:
        """Leave what is done in a block from now on to those around it: a cancel must come to an end."""
        for each in (block, *(other for other, _ in self.tasks if other.is_within(block))):
            if each.last is None:
                calls = (*(armed.call for armed in self.armed.values()), *self._in_flight())
                each.last = frozenset(call.activity_id for call in calls if each.holds(call))

    async def undo(self, block: Block | None = None) -> None:
        """Compensate what is armed in a block (None: in the run), the last first, as long as anything comes to be."""
        current_block.set(UNDOING)
        self.has_blocks = True
        while self.has_work(block):
            if self._is_unsettled(block):
                settled = self._run.loop.create_future()
                self.waits += ((block, settled),)
                await settled
            elif within := self._tasks_within(block):
                await asyncio.wait(within)
            elif (armed := self._last(block)) is not None:
                del self.armed[armed.call.activity_id]
                await self._compensate(armed, block)

    async def _compensate(self, armed: Armed, block: Block | None) -> None:
        call = armed.call
        compensation = call
        if armed.is_itself:
            call.block = UNDOING
            call.resume()
        elif isinstance(call, ActivityCall) and call.definition.undo is not None:
            compensation = ActivityCall(call.definition.undo, (armed.result, *call.args), call.kwargs)
        if self._run.journal is None:
            note = Note(EventKind.COMPENSATION_STARTED, compensation.activity_id, _encode(call.activity_id))
            self._run.note(note)
        if armed.failure is not None:
            self.failures += (_uncertainty(armed, f"compensation {compensation.activity_id!r} was told so"),)
        try:
            await compensation
        except Exception as exc:  # noqa: BLE001 - recorded and reported; the other compensations go on
            if not self._run.is_lenient and is_bug(exc):
                self._run.fail_turn(exc)  # not the compensation's failure, but its declaration's
            error = _compensation_error(armed, compensation, exc)
            self.failures += (failure_of(error),)
            if block is not None:
                block.failures.append(error)

    def report(self) -> tuple[Failure, ...]:
        """Return what a run that is undone has to tell of it."""
        return (*self.failures, *(_uncertainty(armed, "nothing was undone") for armed in self._uncertain))

    def clear(self) -> None:
        """Forget everything."""
        self.armed.clear()
        self.waits = self.tasks = ()


def is_compensation(call: Call[object]) -> bool:
    """Tell whether a call undoes something."""
    return getattr(call, "block", None) is UNDOING


def _is_undoable(call: ActivityCall[object]) -> bool:
    return call.definition.undo is not None and not is_compensation(call)


def _compensation_error(armed: Armed, compensation: Call[object], exc: Exception) -> CompensationError:
    failure = failure_of(exc, activity_id=compensation.activity_id)
    of = "" if armed.is_itself else f" of {armed.call.activity_id!r}"
    told = f"{failure.type.partition(':')[2]}: {failure.message}"
    message = f"compensation {compensation.activity_id!r}{of} failed for good: {told}"
    return CompensationError(message, compensation.activity_id, failure)


def _uncertainty(armed: Armed, what_then: str) -> Failure:
    """Return what tells people to look for themselves."""
    failure = armed.failure
    activity_id = armed.call.activity_id
    told = "" if failure is None else f" ({failure.type.partition(':')[2]}: {failure.message})"
    message = f"activity {activity_id!r} ended without a result{told}: it is not known what it did; {what_then}"
    attempts = 1 if failure is None else failure.attempts
    return Failure("romancy:UnknownOutcome", message, attempts=attempts, activity_id=activity_id)
