"""Behind PgBouncer, in transaction pooling."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from romancy import App, WorkflowFailedError, activity, connection, workflow
from romancy.storage.postgres import PostgresStorage
from tests.postgres import Server

from .work import letters, outage_steps, outage_wait

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer on this machine: install the distribution's"),
]


@activity(transactional=True)
async def pooler_write() -> int:
    return len(await connection().fetch_all("SELECT 1"))


@workflow
async def pooler_transactional() -> int:
    return await pooler_write()


@pytest.fixture
async def pooler(anyio_backend: str, postgres: Server) -> AsyncIterator[str]:
    """Start a PgBouncer of few connections; give its DSN."""
    host = parse_qs(urlsplit(postgres.dsn).query)["host"][0]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="romancy-pgbouncer-", dir="/tmp"))
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\npostgres = host={host} port=5432 user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 100\n"
    )
    folder.chmod(0o755)
    assert PROGRAM is not None
    command = [PROGRAM, str(settings)]
    # It refuses root; who owns the server's folder can reach its socket.
    user = (Path(host).stat().st_uid or pwd.getpwnam("nobody").pw_uid) if os.geteuid() == 0 else None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user) as running:
        try:
            until = time.monotonic() + 5
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert time.monotonic() < until, "pgbouncer does not start"
                await asyncio.sleep(0.02)
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
        finally:
            running.kill()
    shutil.rmtree(folder)


async def test_work_is_done_behind_a_pooler(pooler: str, postgres: Server) -> None:
    async with postgres.schema() as schema:
        url = f"{pooler}&pooler=1&schema={schema}"
        async with App(url) as one, App(url) as other:
            handles = [await (one, other)[n % 2].start(outage_steps(f"{n}", 10), id=f"{n}") for n in range(20)]
            waiting = await one.start(outage_wait(), id="waiting")
            await other.send(letters, "hello", to="waiting")
            assert [await handle.result(timeout=20) for handle in handles] == [45] * 20
            assert await waiting.result(timeout=20) == "hello"
            with pytest.raises(WorkflowFailedError, match="direct_dsn"):
                await one.run(pooler_transactional())


async def test_what_needs_a_connection_of_its_own_goes_past_the_pooler(pooler: str, postgres: Server) -> None:
    async with postgres.schema() as schema:
        storages = [PostgresStorage(pooler, pooler=True, direct_dsn=postgres.dsn, schema=schema) for _ in range(2)]
        async with App(storages[0]) as app, App(storages[1], worker=False) as client:
            assert await app.run(pooler_transactional()) == 1
            handle = await client.start(outage_wait(), id="waiting")
            while await handle.status() != "running":
                await asyncio.sleep(0.01)
            await client.send(letters, "hello", to="waiting")
            assert await handle.result(timeout=5) == "hello"
