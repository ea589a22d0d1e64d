"""A process that is stopped in the middle of a batch, with its rows locked, holds up nobody."""

from __future__ import annotations

import signal
import time
from datetime import timedelta
from typing import Any

import pytest

from romancy import App
from romancy.core.definitions import Workflow
from tests.postgres import Server

from .processes import running
from .scripts.stopped import letters, stopped_receiver, stopped_sender

pytestmark = pytest.mark.anyio

WORKFLOWS: list[Workflow[..., Any]] = [stopped_sender, stopped_receiver]
TTL = timedelta(seconds=1)


async def test_process_stopped_in_a_batch_holds_up_neither_failover_nor_those_it_sends_to(
    anyio_backend: str, postgres: Server
) -> None:
    async with postgres.schema() as schema:
        url = f"{postgres.dsn}&schema={schema}"
        async with App(url, workflows=WORKFLOWS, worker=False) as client:
            await client.start(stopped_receiver(3), id="receiver")
        async with running("stopped.py", url) as process:
            await process.expect("stopping")
            began = time.monotonic()
            async with App(url, workflows=WORKFLOWS, session_ttl=TTL) as app:
                # The row of the receiver is locked, and so are the sender's and the session's.
                await app.send(letters, "from outside", to="receiver")
                await app.run(stopped_sender("other"), id="other")
                sender = await app.get("stopped")
                assert await sender.result(timeout=15) == "stopped has sent"
                receiver = await app.get("receiver")
                assert await receiver.result(timeout=5) == ["from outside", "other", "stopped"]
                assert time.monotonic() - began < 12
                history = await sender.history()
            process.signal(signal.SIGCONT)
            async with App(url, workflows=WORKFLOWS, worker=False) as client:
                await client.start(stopped_receiver(1), id="receiver", on_conflict="restart")
                again = await client.start(stopped_sender("again"), id="again")
                assert await again.result(timeout=10) == "again has sent"
                assert await (await client.get("receiver")).result(timeout=5) == ["again"]
                assert await (await client.get("stopped")).history() == history
            process.signal(signal.SIGTERM)
            assert await process.end() == 0, process.errors
