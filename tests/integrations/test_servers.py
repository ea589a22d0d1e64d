"""Real servers in processes of their own, under load, killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(40)]

ROOT = Path(__file__).parents[2]
ORDERS = 240
KILLS = 2
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server in a process of its own."""

    def __init__(self, command: list[str], port: int, log: Path, environment: dict[str, str]) -> None:
        self._command = [sys.executable, "-m", *command]
        self._log = log
        self._environment = environment
        self.address = f"http://127.0.0.1:{port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}", **self._environment},
                stdout=log,
                stderr=log,
            )
        async with httpx.AsyncClient(base_url=self.address, trust_env=False) as client:
            while True:
                assert self._process.returncode is None, self._log.read_text()
                try:
                    if (await client.get("/durable/health/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()


@asynccontextmanager
async def server_of(framework: str, database: str, log: Path) -> AsyncGenerator[Server]:
    """Serve the example of a framework."""
    port = free_port()
    if framework == "fastapi":
        command = ["uvicorn", "fastapi_orders:service", "--port", str(port), "--log-level", "warning"]
    else:
        command = ["aiohttp.web", "-H", "127.0.0.1", "-P", str(port), "aiohttp_webhook:service", database]
    server = Server(command, port, log, {"DATABASE": database})
    try:
        await server.start()
        yield server
    finally:
        await server.end()


async def place(client: httpx.AsyncClient, framework: str, id: str) -> dict[str, Any]:
    """Place an order and wait for its outcome, as often as it takes: a client repeats what was not answered."""
    while True:
        try:
            if framework == "fastapi":
                reply = await client.post(f"/orders/{id}", json={"item": "a piano", "amount": 9_000})
            else:
                reply = await client.post(f"/orders/{id}")
        except httpx.TransportError:
            await asyncio.sleep(0.1)
            continue
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        return answer


async def settle(client: httpx.AsyncClient, framework: str, id: str, turn: asyncio.Event) -> None:
    """Send what an order waits for, when it is its turn: twice, and until it is taken."""
    await turn.wait()
    for event in ("1", "1", "2") if framework == "aiohttp" else ("1", "1"):
        while True:
            try:
                if framework == "aiohttp":
                    told = {"id": f"{id}-{event}", "order": id, "amount": 50}
                    reply = await client.post("/webhook", json=told)
                else:
                    url = f"/durable/instances/{id}/messages/approvals"
                    reply = await client.post(url, params={"message_id": f"{id}-{event}"}, json=True)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            if reply.status_code == 204 or (reply.status_code == 409 and event == "1"):
                break  # taken, or so long ago that the order has ended
            await asyncio.sleep(0.05)  # the order itself has not been taken yet


@pytest.mark.parametrize("framework", ["fastapi", "aiohttp"])
async def test_every_accepted_order_completes_once_across_kills(framework: str, url: str, tmp_path: Path) -> None:
    ids = [f"order-{number}" for number in range(ORDERS)]
    log = tmp_path / "log"
    async with server_of(framework, url, log) as server:
        async with httpx.AsyncClient(base_url=server.address, timeout=60, limits=LIMITS, trust_env=False) as client:
            # A third of the orders is settled before each kill and after the last, so that hundreds wait at each.
            turns = [asyncio.Event() for _ in range(KILLS + 1)]
            async with asyncio.TaskGroup() as group:
                placing = {id: group.create_task(place(client, framework, id)) for id in ids}
                for number, id in enumerate(ids):
                    group.create_task(settle(client, framework, id, turns[number % len(turns)]))
                for number, turn in enumerate(turns):
                    turn.set()
                    mine = [placing[id] for id in ids[number :: len(turns)]]
                    while sum(task.done() for task in mine) < len(mine) // 2:
                        await asyncio.sleep(0.002)
                    if number < KILLS:
                        await server.end()
                        await server.start()
            answers = {id: task.result() for id, task in placing.items()}
            again = {id: await place(client, framework, id) for id in ids[::10]}
            listed = (await client.get("/durable/instances", params={"limit": 1000})).json()["instances"]
            kinds: Counter[str] = Counter()
            for instance in listed:
                history = (await client.get(f"/durable/instances/{instance['id']}/history")).json()
                kinds.update(event["kind"] for event in history)
        await server.end(signal.SIGTERM)
    assert {instance["id"] for instance in listed} == set(ids)
    assert {instance["status"] for instance in listed} == {"completed"}
    assert len({answer["receipt"] for answer in answers.values()}) == ORDERS
    assert again == {id: answers[id] for id in again}
    messages = 2 * ORDERS if framework == "aiohttp" else ORDERS
    assert kinds == {"activity_completed": ORDERS, "message_received": messages, "run_completed": ORDERS}


async def test_one_database_shared_by_a_fastapi_and_an_aiohttp_process(url: str, tmp_path: Path) -> None:
    """Each serves its own workflow, and starts, messages and waits for the other's."""
    async with (
        server_of("fastapi", url, tmp_path / "one") as one,
        server_of("aiohttp", url, tmp_path / "two") as two,
        httpx.AsyncClient(base_url=one.address, timeout=30, trust_env=False) as fastapi,
        httpx.AsyncClient(base_url=two.address, timeout=30, trust_env=False) as aiohttp,
    ):
        piano = {"order": {"item": "a piano", "amount": 9_000}}
        assert (await fastapi.post("/durable/workflows/fulfil?id=piano", json=piano)).status_code == 201
        started = await aiohttp.post("/durable/workflows/sell?id=flute", json={"order": "a flute", "price": 50})
        assert started.status_code == 201
        waiting = [
            asyncio.create_task(aiohttp.get("/durable/instances/piano/result?timeout=20")),
            asyncio.create_task(fastapi.get("/durable/instances/flute/result?timeout=20")),
        ]
        sent = await fastapi.post("/durable/instances/piano/messages/approvals", json=True)
        assert sent.status_code == 204
        assert (await aiohttp.post("/webhook", json={"id": "1", "order": "flute", "amount": 50})).status_code == 204
        results = [(await each).json()["result"]["outcome"] for each in waiting]
        assert results == ["9000 charged for a piano", "a flute is on its way"]
        both = [(await client.get("/durable/instances")).json()["instances"] for client in (fastapi, aiohttp)]
        assert [[each["id"] for each in listed] for listed in both] == [["piano", "flute"]] * 2
