"""Which file a SQLite database is in, whether it is ours, and a connection to it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import parse_qsl, unquote

import msgspec

from romancy.errors import SchemaVersionError, StorageError
from romancy.storage import sqlite_schema
from romancy.storage.sqlite_thread import retry_while_busy

MEMORY = ":memory:"
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")

# https://www.sqlite.org/fileformat2.html, section 1.3
_MAGIC = b"SQLite format 3\0"
_HEADER_SIZE = 100
_WRITE_VERSION = 18
_WRITE_VERSION_WAL = 2
_APPLICATION_ID = slice(68, 72)

_CACHE_KIB = 16_384
_LOG_LIMIT = 64 * 1024 * 1024


class Location(msgspec.Struct, frozen=True):
    """Where a database is, and how durable its commits are.

    Attributes:
        path: Absolute, or `MEMORY`.
        synchronous: SQLite's setting of that name.
    """

    path: str
    synchronous: str = "FULL"

    @property
    def is_memory(self) -> bool:
        """Whether the database goes away with its connection."""
        return self.path == MEMORY


def locate(path_or_url: str | Path, synchronous: str = "FULL") -> Location:
    """Read a path, or a URL as SQLAlchemy writes them.

    ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://`` for memory; ``?synchronous=NORMAL``
    wins over the argument. A relative path is relative to the present working directory.

    Raises:
        StorageError: The URL can't be understood.
    """
    text = os.fspath(path_or_url)
    path = text
    if text.startswith("sqlite:"):
        rest, _, query = text.removeprefix("sqlite:").partition("?")
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name != "synchronous":
                raise StorageError(f"{text}: unknown option {name!r}; the only one is 'synchronous'")
            synchronous = value
        if not rest.startswith("///") and rest != "//":
            raise StorageError(f"{text}: write sqlite:///relative.db, sqlite:////absolute.db, or sqlite:// for memory")
        path = unquote(rest[3:]) or MEMORY
    if synchronous.upper() not in _SYNCHRONOUS:
        raise StorageError(f"{text}: synchronous is {synchronous!r}, not one of {', '.join(_SYNCHRONOUS)}")
    return Location(path if path == MEMORY else str(Path(path).absolute()), synchronous.upper())


def connect_writer(location: Location, *, migrate: bool, lock_timeout: float, now: int) -> sqlite3.Connection:
    """Open the connection that writes, and bring the schema up to date (or only verify it).

    Raises:
        SchemaVersionError: The file is not romancy's, or its schema does not fit. It is not touched.
        StorageError: The file can't be opened.
    """
    version = 0 if location.is_memory else inspect(location.path, lock_timeout=lock_timeout)
    _verify(location.path, version, migrate=migrate)
    try:
        connection = _connect(location.path)
        try:
            _prepare(connection, location, lock_timeout=lock_timeout, now=now)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise StorageError(f"{location.path}: {error}") from error
    return connection


def connect_reader(location: Location, *, lock_timeout: float) -> sqlite3.Connection:
    """Open a connection that only reads; the writer must have been opened."""
    connection = _connect(location.path)
    # A reader waits only while another process recovers or removes the log: SQLite's own handler will do.
    connection.execute(f"PRAGMA busy_timeout = {round(lock_timeout * 1000):d}")
    connection.execute("PRAGMA query_only = ON")
    return connection


def inspect(path: str, *, lock_timeout: float) -> int:
    """Find out what a file is, without touching it or leaving anything beside it.

    Returns:
        The number of the last migration; 0 if there is no file yet, or an empty database.

    Raises:
        SchemaVersionError: The file holds something else.
        StorageError: It can't be read.
    """
    try:
        header = _header(path)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    if not header:
        folder = Path(path).parent
        if not folder.is_dir():
            raise StorageError(f"{path}: there is no folder {folder}; create it first")
        return 0
    if not header.startswith(_MAGIC):
        raise SchemaVersionError(f"{path}: not a SQLite database; choose another path for romancy's own")
    mark = int.from_bytes(header[_APPLICATION_ID], "big")
    has_log = _size(f"{path}-wal") > 0
    # A file of ours gets its mark before it gets a log: what has a log but no mark is somebody else's.
    is_foreign = mark != sqlite_schema.APPLICATION_ID and (mark != 0 or has_log)
    # Without a log, nobody has a database in WAL mode open, and even one who only reads would make one.
    is_immutable = header[_WRITE_VERSION] == _WRITE_VERSION_WAL and not has_log
    try:
        if not is_foreign:
            uri = f"{Path(path).as_uri()}?mode=ro{'&immutable=1' if is_immutable else ''}"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=lock_timeout)) as connection:
                if mark == sqlite_schema.APPLICATION_ID:
                    return sqlite_schema.version_of(connection)
                is_foreign = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            # Whoever created it was killed while doing so; opening it for writing undoes that.
            return 0
        raise StorageError(f"{path}: {error}; if it was romancy's, restore it from a backup") from error
    if is_foreign:
        raise SchemaVersionError(
            f"{path}: a SQLite database that romancy did not create; choose another path for romancy's own"
        )
    return 0


def _header(path: str) -> bytes:
    """Read the file's first bytes; empty if it does not exist or is empty.

    Raises:
        OSError: It is a directory, or can't be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(_HEADER_SIZE)
    except FileNotFoundError:
        return b""


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


def _verify(path: str, version: int, *, migrate: bool) -> None:
    """Make sure that a schema fits, or can be made to.

    Raises:
        SchemaVersionError: It does not.
    """
    latest = sqlite_schema.latest_version()
    if version > latest:
        raise SchemaVersionError(
            f"{path}: its schema has version {version}, and this romancy knows versions up to {latest};"
            " upgrade romancy, or choose another path"
        )
    if version < latest and not migrate:
        what = f"its schema has version {version}, and this romancy needs {latest}"
        if version == 0:
            what = "romancy has no tables there: is it the right place?"
        raise SchemaVersionError(f"{path}: {what}; run `romancy migrate`, or open it once with migrate=True")


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=256)


def _prepare(connection: sqlite3.Connection, location: Location, *, lock_timeout: float, now: int) -> None:
    retry_while_busy(lambda: _migrate(connection, location.path, now), lock_timeout)
    mode = retry_while_busy(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone()[0], lock_timeout)
    if mode != ("memory" if location.is_memory else "wal"):
        raise StorageError(f"{location.path}: SQLite can't keep a write-ahead log there; use a local disk")
    connection.execute(f"PRAGMA synchronous = {location.synchronous}")
    connection.execute(f"PRAGMA cache_size = {-_CACHE_KIB:d}")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT:d}")


def _migrate(connection: sqlite3.Connection, path: str, now: int) -> None:
    """Bring the schema up to date. Atomic: others see the old one or the new one.

    A new file is not in WAL mode yet, so the mark gets into the file itself, where `inspect` looks for it.
    """
    if sqlite_schema.version_of(connection) == sqlite_schema.latest_version():
        return
    connection.execute("BEGIN EXCLUSIVE")
    try:
        _verify(path, sqlite_schema.version_of(connection), migrate=True)
        sqlite_schema.migrate(connection, now)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
