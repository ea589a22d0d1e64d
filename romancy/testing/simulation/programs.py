"""Random workflow programs, the workflow that runs them, and what each must come to."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from romancy import (
    Channel,
    ChildWorkflowFailedError,
    InstanceNotFoundError,
    NonRetryableError,
    RetryPolicy,
    activity,
    activity_info,
    recur,
    saga,
    side_effect,
    sleep,
    start_child,
    uuid4,
    workflow,
    workflow_info,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable


class Node(msgspec.Struct, frozen=True):
    """A part of a program: what it does, with what number, how long, and with which parts."""

    kind: str
    number: int
    seconds: float = 0.0
    children: tuple[Node, ...] = ()


class Program(msgspec.Struct, frozen=True):
    """What an instance does: each part in a run of its own; then perhaps it fails and is undone, or it is cancelled."""

    parts: tuple[Node, ...]
    end: str = "well"
    reads: int = 0
    writes_to: str = ""
    writes: int = 0
    jobs: int = 0


letters: Channel[list[Any]] = Channel("simulation.letters", list[Any])
jobs: Channel[int] = Channel("simulation.jobs", int)
never: Channel[int] = Channel("simulation.never", int)
_POLICY = RetryPolicy(max_attempts=20, max_duration=None)


class World:
    """What the bodies of activities have done, in one simulation."""

    def __init__(self) -> None:
        self.bodies: Counter[str] = Counter()


world = World()


@activity(name="simulation.act", retry=_POLICY)
async def act(number: int, seconds: float, failures: int) -> int:
    """Work for some time, after some failures."""
    info = activity_info()
    world.bodies[info.idempotency_key] += 1
    await asyncio.sleep(seconds)
    if info.attempt <= failures:
        raise ConnectionError(f"attempt {info.attempt}")
    return number * 2


@activity(name="simulation.refuse")
async def refuse(number: int) -> int:
    """Fail for good."""
    raise NonRetryableError(f"refused {number}")


@activity(name="simulation.do", retry=_POLICY)
async def do(number: int, seconds: float) -> int:
    """Do what can be undone."""
    world.bodies[activity_info().idempotency_key] += 1
    await asyncio.sleep(seconds)
    return number


@do.compensation(name="simulation.undo", retry=_POLICY)
async def undo(result: int | None, number: int, seconds: float) -> None:  # noqa: ARG001 - as `do` is called
    """Undo it."""
    world.bodies[activity_info().idempotency_key] += 1


async def run_node(node: Node) -> Any:
    """Do a part, and return what `expected` says."""
    return await _RUNS[node.kind](node)


async def _refused(node: Node) -> str:
    try:
        return f"not {await refuse(node.number)}"
    except NonRetryableError as exc:
        return str(exc)


async def _slept(node: Node) -> str:
    await sleep(node.seconds)
    return "slept"


async def _in_turn(node: Node) -> list[Any]:
    return [await run_node(child) for child in node.children]


async def _gathered(node: Node) -> list[Any]:
    return list(await asyncio.gather(*map(run_node, node.children)))


async def _grouped(node: Node) -> list[Any]:
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(run_node(child)) for child in node.children]
    return [task.result() for task in made]


async def _late(node: Node) -> str:
    try:
        async with asyncio.timeout(node.seconds):
            await asyncio.gather(sleep(100_000), never.receive())
    except TimeoutError:
        return "late"
    return "never"


async def _raced(node: Node) -> list[bool]:
    fast = asyncio.ensure_future(sleep(node.seconds))
    slow = asyncio.ensure_future(sleep(50_000))
    done, _ = await asyncio.wait([fast, slow], return_when=asyncio.FIRST_COMPLETED)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    return [fast in done, slow in done]


async def _by_child(node: Node) -> Any:
    return await part(msgspec.to_builtins(Node("seq", 0, 0.0, node.children)))


async def _by_started_child(node: Node) -> Any:
    handle = await start_child(part(msgspec.to_builtins(Node("seq", 0, 0.0, node.children))))
    await sleep(node.seconds)
    return await handle


async def _with_failing_child(node: Node) -> str:
    try:
        await failing_part(node.number)
    except ChildWorkflowFailedError as exc:
        return exc.status
    return "well"


async def _in_block(node: Node) -> str:
    try:
        async with saga():
            for child in node.children:
                await do(child.number, child.seconds)
            await refuse(node.number)
    except NonRetryableError:
        return "undone"
    return "not undone"


async def _by_chance(node: Node) -> int:  # noqa: ARG001 - as the others
    return len(str(uuid4())) + side_effect(lambda: 1)


async def _acted(node: Node) -> int:
    return await act(node.number, node.seconds, node.number % 3)


_RUNS: dict[str, Callable[[Node], Awaitable[Any]]] = {
    "act": _acted,
    "refuse": _refused,
    "sleep": _slept,
    "seq": _in_turn,
    "gather": _gathered,
    "group": _grouped,
    "late": _late,
    "race": _raced,
    "child": _by_child,
    "started": _by_started_child,
    "failing child": _with_failing_child,
    "block": _in_block,
    "chance": _by_chance,
}
_RESULTS: dict[str, object] = {
    "sleep": "slept",
    "late": "late",
    "race": [True, False],
    "failing child": "failed",
    "block": "undone",
    "chance": 37,
}


def expected(node: Node) -> Any:
    """Return what a part comes to."""
    if node.kind in _RESULTS:
        return _RESULTS[node.kind]
    if node.kind == "act":
        return node.number * 2
    if node.kind == "refuse":
        return f"refused {node.number}"
    return [expected(child) for child in node.children]


async def _send(letter: list[Any], to: str) -> None:
    """Send, as soon as the other has been started."""
    while True:
        try:
            await letters.send(letter, to=to)
        except InstanceNotFoundError:
            await sleep(1)
        else:
            return


@workflow(name="simulation.part")
async def part(node: dict[str, Any]) -> Any:
    """Run a part as a child."""
    return await run_node(msgspec.convert(node, Node))


@workflow(name="simulation.failing")
async def failing_part(number: int) -> None:
    """Do something, fail, and undo it."""
    await do(number, 0.0)
    await refuse(number)


@workflow(name="simulation.program")
async def program(what: dict[str, Any], index: int = 0, done: list[Any] | None = None) -> list[Any]:
    """Run a program."""
    plan = msgspec.convert(what, Program)
    results = done or []
    if index < len(plan.parts):
        results = [*results, await run_node(plan.parts[index])]
        return recur(program(what, index + 1, results))
    for number in range(plan.writes):
        await _send([workflow_info().instance_id, number], plan.writes_to)
    got = [await letters.receive() for _ in range(plan.reads)]
    taken: list[int] = []
    if plan.jobs:
        async with jobs.subscribe(mode="competing") as subscription:
            taken = [await subscription.receive() for _ in range(plan.jobs)]
    if plan.end in {"fails", "cancelled"}:
        await do(1, 0.5)
        await asyncio.gather(do(2, 1.0), do(3, 0.1))
        if plan.end == "cancelled":
            await sleep(1_000_000)
        await refuse(0)
    return [results, got, taken]


def make_node(chance: random.Random, depth: int = 0) -> Node:
    """Return a random part."""
    leaves = ("act", "act", "act", "refuse", "sleep", "late", "race", "failing child", "chance")
    inner = ("seq", "gather", "group", "child", "started", "block")
    kind = chance.choice(leaves if depth > 2 or chance.random() < 0.5 else inner)
    children: tuple[Node, ...] = ()
    if kind in inner:
        leaf: Callable[[], Node] = lambda: Node("act", chance.randrange(100), _seconds(chance))  # noqa: E731 - short
        count = chance.randint(1, 3)
        children = tuple(leaf() if kind == "block" else make_node(chance, depth + 1) for _ in range(count))
    return Node(kind, chance.randrange(100), _seconds(chance), children)


def _seconds(chance: random.Random) -> float:
    return chance.choice((0.0, 0.0, 0.01, 0.3, 2.0, 20.0))
