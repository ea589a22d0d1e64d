"""Random workflow programs over asyncio and anyio, which trace what they do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import anyio

from romancy.replay.context import current_execution
from romancy.workflows.channels import Channel
from romancy.workflows.completion import as_completed
from romancy.workflows.determinism import random as draw
from romancy.workflows.determinism import side_effect, uuid4
from romancy.workflows.saga import compensate_with, saga
from tests.replay.scripting import Message, act, attempted, log, news, read_world, undoable

orders: Channel[int] = Channel("orders", int)


class Node(NamedTuple):
    """One node of a program: what it does, a number that varies it, a delay in seconds, and its children."""

    kind: str
    number: int
    delay: int
    children: tuple[Node, ...]


class Program(NamedTuple):
    """A program with what happens to it from outside."""

    tree: tuple[Node, ...]
    messages: list[Message]
    cancel_at: float | None
    grace: float | None
    time_limit: float | None

    def has(self, *kinds: str) -> bool:
        """Tell whether one of some kinds of node is anywhere in the tree."""
        return any(kind in repr(self.tree) for kind in kinds)


Kind = Callable[[Node], Awaitable[object]]
_kinds: dict[str, Kind] = {}
_LEAVES = ("activity", "sleep", "receive_in_time", "side", "activity", "send", "chance")
_REPEATED = ("activity",) * 4


def kind(fn: Kind) -> Kind:
    _kinds[fn.__name__] = fn
    return fn


def make(rng: random.Random, depth: int = 0) -> Node:
    """Return a random node."""
    name = rng.choice((*_kinds, *_REPEATED) if depth < 3 else _LEAVES)
    number = rng.randrange(1000)
    delay = rng.choice((0, 1, 1, 2, 3, 5))
    children = tuple(make(rng, depth + 1) for _ in range(rng.randint(1, 3))) if depth < 3 else ()
    return Node(name, number, delay, children)


def program_of(seed: int) -> Program:
    """Return the program of a seed."""
    rng = random.Random(seed)
    tree = tuple(make(rng) for _ in range(rng.randint(4, 9)))
    messages = [Message(rng.randrange(30) / 2, number) for number in range(12)]
    messages += [Message(10_000, 100 + number) for number in range(200)]
    cancel_at = rng.randrange(1, 20) if rng.random() < 0.2 else None
    grace = rng.randrange(1, 9) if rng.random() < 0.5 else None
    time_limit = rng.randrange(1, 30) if rng.random() < 0.2 else None
    return Program(tree, messages, cancel_at, grace, time_limit)


async def run_tree(tree: list[Any]) -> str:
    """Run a program: the workflow of every test."""
    return repr([await run(node_of(item)) for item in tree])


def node_of(item: Any) -> Node:
    name, number, delay, children = item
    return Node(name, number, delay, tuple(node_of(child) for child in children))


async def run(node: Node) -> object:
    """Run a node, tracing its beginning and end; a failure passes one time in three."""
    log(">", node.kind, node.number)
    try:
        result = await _kinds[node.kind](node)
        log("<", node.kind, node.number, repr(result)[:60])
        return result
    except Exception as exc:
        log("!", node.kind, node.number, type(exc).__name__)
        if node.number % 3 == 0:
            raise
        return None
    except asyncio.CancelledError:
        log("C", node.kind, node.number)
        if node.number % 2:
            log("cleanup", node.number, await act(f"clean{node.number}"))
        raise


def first_child(node: Node, name: str) -> Any:
    return run(node.children[0]) if node.children else act(name)


@kind
async def activity(node: Node) -> object:
    return await act(f"a{node.number}", node.number)


@kind
async def reserve(node: Node) -> object:
    return await (undoable if node.number % 2 else attempted)(f"r{node.number}", node.number)


@kind
async def saga_block(node: Node) -> object:
    block = saga()
    try:
        async with block:
            if node.number % 5 == 0:
                compensate_with(act(f"tidy{node.number}"))
            first = undoable(f"u{node.number}", node.number)
            result = await asyncio.wait_for(first, node.delay) if node.number % 3 == 0 else await first
            results = [result, *[await run(child) for child in node.children]]
            if node.number % 4 == 0:
                refuse(f"block {node.number}")
        return results
    except (Exception, asyncio.CancelledError):
        log("block", node.number, [failure.activity_id for failure in block.failures])
        raise


@kind
async def leaky_block(node: Node) -> object:
    """Leave tasks running when a block fails; one of them is cancelled before anybody knows that it has begun."""

    async def chain() -> None:
        for number in range(1 + node.number % 3):
            await undoable(f"u{number}", node.number)

    async def withdrawn() -> None:
        await attempted(f"r{node.number}", node.number)

    async def fails() -> None:
        await asyncio.sleep(node.delay)
        refuse(f"leaky {node.number}")

    async def cancel(task: asyncio.Task[None]) -> None:
        for _ in range(node.number % 5):
            await asyncio.sleep(0)
        task.cancel()

    spare: list[asyncio.Task[None]] = []
    try:
        async with saga():
            try:
                await asyncio.gather(chain(), fails(), *map(run, node.children))
            finally:
                spare.append(asyncio.create_task(withdrawn()))
                spare.append(asyncio.create_task(cancel(spare[0])))
                await asyncio.sleep(0)
    finally:
        log("leaked", node.number)
    return None


def refuse(why: str) -> None:
    raise ValueError(why)


@kind
async def sleep(node: Node) -> object:
    await asyncio.sleep(node.delay)
    return None


@kind
async def sequence(node: Node) -> object:
    return [await run(child) for child in node.children]


@kind
async def gather(node: Node) -> object:
    branches = [run(child) for child in node.children]
    return await asyncio.gather(*branches, act("equal", 1), act("equal", 1), return_exceptions=bool(node.number % 2))


@kind
async def gathers(node: Node) -> object:
    groups = [asyncio.gather(run(child), asyncio.sleep(node.number % 4)) for child in node.children]
    if not groups:
        return []
    done, pending = await asyncio.wait(groups, timeout=node.delay)
    log("gathers", len(done), len(pending))
    for group in pending:
        group.cancel()
    return [0 if group.cancelled() else repr(group.exception() or group.result())[:40] for group in done]


@kind
async def group(node: Node) -> object:
    try:
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(run(child)) for child in node.children]
            made.append(tasks.create_task(act(f"g{node.number}")))
        return [task.result() for task in made]
    except BaseExceptionGroup as exc:
        return len(exc.exceptions)


@kind
async def timeout(node: Node) -> object:
    try:
        async with asyncio.timeout(node.delay):
            return [await run(child) for child in node.children]
    except TimeoutError:
        return "late"


@kind
async def wait_for(node: Node) -> object:
    inner = first_child(node, f"w{node.number}") if node.number % 2 else act(f"w{node.number}")
    try:
        return await asyncio.wait_for(inner, node.delay)
    except TimeoutError:
        return "late"


@kind
async def wait(node: Node) -> object:
    tasks = {asyncio.create_task(run(child)) for child in node.children}
    tasks |= {asyncio.create_task(act(f"w{node.number}.{number}")) for number in range(3)}
    until = asyncio.FIRST_COMPLETED if node.number % 2 else asyncio.ALL_COMPLETED
    done, pending = await asyncio.wait(tasks, timeout=node.delay or None, return_when=until)
    log("wait", [task.get_name() for task in done], [task.get_name() for task in pending])
    for task in pending:
        task.cancel()
    for task in pending:
        try:
            await task
        except (Exception, asyncio.CancelledError):
            log("waited", task.get_name())
    return len(done)


@kind
async def shield(node: Node) -> object:
    task = asyncio.create_task(first_child(node, "shielded"))
    try:
        async with asyncio.timeout(node.delay):
            return await asyncio.shield(task)
    except TimeoutError:
        log("kept")
        return await task


@kind
async def queue(node: Node) -> object:
    shared: asyncio.Queue[object] = asyncio.Queue(maxsize=node.number % 2)

    async def produce(number: int) -> None:
        for turn in range(2):
            await shared.put((number, turn, await act(f"p{number}")))
            await asyncio.sleep(node.delay)

    producers = [asyncio.create_task(produce(number)) for number in range(2)]
    got = [await shared.get() for _ in range(4)]
    await asyncio.gather(*producers)
    return got


@kind
async def lock(node: Node) -> object:
    return await _in_turns(asyncio.Lock(), 3)


@kind
async def semaphore(node: Node) -> object:
    return await _in_turns(asyncio.Semaphore(2), 4)


async def _in_turns(guard: asyncio.Lock | asyncio.Semaphore, count: int) -> list[int]:
    order: list[int] = []

    async def work(number: int) -> None:
        async with guard:
            order.append(number)
            await act(f"l{number}")
            order.append(-number)

    await asyncio.gather(*(work(number) for number in range(count)))
    return order


@kind
async def barrier(node: Node) -> object:
    meeting = asyncio.Barrier(2)
    order: list[object] = []

    async def meet(number: int) -> None:
        await act(f"b{number}")
        order.append((number, await meeting.wait()))

    await asyncio.gather(meet(1), meet(2))
    return order


@kind
async def event(node: Node) -> object:
    flag = asyncio.Event()
    order: list[object] = []

    async def await_flag(number: int) -> None:
        await flag.wait()
        order.append((number, await act(f"e{number}")))

    tasks = [asyncio.create_task(await_flag(number)) for number in range(3)]
    await asyncio.sleep(node.delay)
    flag.set()
    await asyncio.gather(*tasks)
    return order


@kind
async def condition(node: Node) -> object:
    shared = asyncio.Condition()
    order: list[int] = []

    async def await_notice(number: int) -> None:
        async with shared:
            await shared.wait()
            order.append(number)
            await act(f"c{number}")

    tasks = [asyncio.create_task(await_notice(number)) for number in range(2)]
    await asyncio.sleep(node.delay)
    async with shared:
        await act("notify")
        shared.notify_all()
    await asyncio.gather(*tasks)
    return order


@kind
async def generator(node: Node) -> object:
    async def items() -> AsyncIterator[object]:
        try:
            for number in range(3):
                yield await act(f"i{number}")
        finally:
            log("closed", node.number)

    return [item async for item in items()]


@kind
async def broken_generator(node: Node) -> object:
    async def items() -> AsyncIterator[object]:
        try:
            while True:
                yield await act("item")
        finally:
            log("closed", node.number)
            log("closed by", await act("close"))

    async for item in items():
        return item
    return None


@kind
async def anyio_group(node: Node) -> object:
    async def child() -> None:
        with anyio.move_on_after(node.delay):
            await act("child")

    try:
        async with anyio.create_task_group() as tasks:
            for item in node.children:
                tasks.start_soon(run, item)
            tasks.start_soon(child)
    except BaseExceptionGroup as exc:
        return len(exc.exceptions)
    return None


@kind
async def anyio_scopes(node: Node) -> object:
    async def child(number: int) -> None:
        with anyio.CancelScope():
            try:
                await act(f"s{number}")
                await anyio.sleep(number)
            finally:
                log("leaving", number)
                with anyio.CancelScope(shield=True):
                    await act(f"left{number}")

    with anyio.move_on_after(node.delay) as scope:
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(child, number)
            for item in node.children:
                tasks.start_soon(run, item)
    return scope.cancelled_caught


@kind
async def receive(node: Node) -> object:
    return await news.receive()


@kind
async def receive_in_time(node: Node) -> object:
    try:
        if node.number % 2:
            return await news.receive(timeout=node.delay)
        async with asyncio.timeout(node.delay):
            return await news.receive()
    except TimeoutError:
        return "none"


@kind
async def cancel(node: Node) -> object:
    task = asyncio.create_task(first_child(node, "cancelled"))
    await asyncio.sleep(node.delay)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return "cancelled"


@kind
async def fail(node: Node) -> object:
    raise ValueError(node.number)


@kind
async def side(node: Node) -> object:
    return side_effect(read_world)


@kind
async def chance(node: Node) -> object:
    return str(uuid4()), draw()


@kind
async def later(node: Node) -> object:
    loop = asyncio.get_running_loop()
    order: list[object] = []
    tasks: list[asyncio.Task[None]] = []

    async def called(number: int) -> None:
        order.append(await act(f"later{number}"))

    def spawn(number: int) -> None:
        tasks.append(loop.create_task(called(number)))

    for number in range(3):
        loop.call_later(node.delay, spawn, number)
    await asyncio.sleep(node.delay)
    await asyncio.sleep(1)
    await asyncio.gather(*tasks)
    return order


@kind
async def send(node: Node) -> object:
    try:
        await orders.send(node.number, to="other")
    except LookupError:
        return "nobody"
    return "sent"


@kind
async def in_order_of_end(node: Node) -> object:
    got: list[object] = []
    limit = 4 if node.number % 3 == 0 else None
    for one in as_completed([act("first"), act("second"), *map(run, node.children)], timeout=limit):
        try:
            got.append(await one)
        except Exception as exc:
            got.append(type(exc).__name__)
    return got


@kind
async def stamp(node: Node) -> object:
    return current_execution("stamp").loop.time()
