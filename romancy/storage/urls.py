"""Which storage a URL means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.errors import StorageError
from romancy.storage.sqlite import SqliteStorage

if TYPE_CHECKING:
    from romancy.core.clock import Clock
    from romancy.storage.protocol import Storage


def storage_at(url: str, clock: Clock | None = None) -> Storage:
    """Make the storage that a URL means: PostgreSQL's, or else SQLite's; it is not opened.

    Args:
        url: ``postgresql://...``, ``sqlite:...`` or the path of a SQLite file.
        clock: The time; by default SQLite's is the machine's, and PostgreSQL's its server's.

    Raises:
        StorageError: The URL can't be understood, or what it needs is not installed.
    """
    scheme, found, _ = url.partition("://")
    if scheme in {"postgresql", "postgres"}:
        try:
            from romancy.storage.postgres import PostgresStorage
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise StorageError("PostgreSQL needs asyncpg: pip install 'romancy[postgres]'") from error
        return PostgresStorage(url, clock=clock)
    if found and scheme != "sqlite":
        raise StorageError(f"{scheme}://...: romancy keeps its data in sqlite:///... or postgresql://...")
    return SqliteStorage(url, clock=clock)
