"""A TCP proxy in front of a PostgreSQL server, which breaks connections in every way that networks do."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from urllib.parse import parse_qs, urlsplit

_COMMIT = b"COMMIT\0"  # but for what asyncpg does when it connects: that is "COMMIT;"
_AT_ONCE = re.compile(rb"(__asyncpg_stmt_\w+__)\0\s*WITH fence AS")
"""Where a statement is prepared that is a commit by itself."""
_CHUNK = 65_536


class Proxy:
    """Pass bytes on between clients and the server's Unix socket, until told otherwise.

    Attributes:
        dsn: What clients connect to.
        commits: How many commits have been passed on: COMMIT, and statements that are one by themselves.
        is_silent: Keep all connections open and pass nothing on: a black hole.
        loses_commit: The number of the commit whose answer is lost: the connection is cut before it is passed on.
        is_refusing: Cut every new connection at once.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.dsn = ""
        self.commits = 0
        self.is_silent = False
        self.is_refusing = False
        self.loses_commit: int | None = None

    async def start(self) -> None:
        """Begin to listen on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.dsn = f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """End."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_refusing:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_unix_connection(self._socket)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        loses_next = asyncio.Event()
        for source, target, is_up in ((reader, back, True), (there, writer, False)):
            task = asyncio.create_task(self._pass_on(source, target, loses_next, is_up=is_up))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, loses_next: asyncio.Event, *, is_up: bool
    ) -> None:
        at_once: set[bytes] = set()
        with contextlib.suppress(OSError):
            while chunk := await source.read(_CHUNK):
                while self.is_silent:
                    await asyncio.sleep(0.01)
                prepared: set[bytes] = set(_AT_ONCE.findall(chunk)) if is_up else set()
                if is_up and (_COMMIT in chunk or (not prepared and any(name in chunk for name in at_once))):
                    self.commits += 1
                    if self.commits == self.loses_commit:
                        loses_next.set()
                elif not is_up and loses_next.is_set():
                    break  # it is committed, and nobody hears of it
                at_once |= prepared
                target.write(chunk)
                await target.drain()
        for writer in list(self._writers):
            if writer is target or loses_next.is_set():
                writer.transport.abort()


@contextlib.asynccontextmanager
async def proxy_of(dsn: str) -> AsyncGenerator[Proxy]:
    """Put a proxy in front of a server, which is reached by a Unix socket."""
    folder = parse_qs(urlsplit(dsn).query)["host"][0]
    proxy = Proxy(f"{folder}/.s.PGSQL.5432")
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
