"""A transaction on SQLite, as what is written in it sees it."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar, cast

from romancy.core.records import Refused
from romancy.storage.rows import ChannelRow, Row
from romancy.storage.sql import Dialects, instances, sessions, topics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

    from romancy.storage.sql import Batch
    from romancy.storage.tx import Rows, Statement

T = TypeVar("T")

# What SQLite, or its Python module, says of a value that it can't take. Anything else is about the database.
_REFUSALS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends: nothing on a `SqliteTx` does, for it has its thread and the write lock."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a transaction on SQLite was suspended")


class SqliteTx:
    """A `romancy.storage.tx.Tx` on a connection, in its thread; its transaction keeps all others from writing.

    So nothing has to be locked, and nothing waits.
    """

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self.connection = connection
        self.now = now
        self.present: int | None = now
        self.may_be_done = False

    async def rows(self, sql: Statement, *parameters: object) -> Rows:
        """Execute a statement and return its rows."""
        return self._execute(sql, parameters).fetchall()

    async def row(self, sql: Statement, *parameters: object) -> tuple[Any, ...] | None:
        """Execute a statement and return its first row."""
        found: tuple[Any, ...] | None = self._execute(sql, parameters).fetchone()
        return found

    async def run(self, sql: Statement, *parameters: object) -> int:
        """Execute a statement and return how many rows it has touched."""
        return self._execute(sql, parameters).rowcount

    async def write(self, *batches: tuple[Batch, Sequence[Sequence[object]]]) -> None:
        """Execute batches, one after the other."""
        for batch, rows in batches:
            if rows:
                self.connection.executemany(batch.sqlite, rows)

    async def insert(self, batch: Batch, rows: Sequence[Sequence[object]]) -> Rows:
        """Execute a batch for each row and return what it returns."""
        return [found for row in rows for found in self.connection.execute(batch.sqlite, row)]

    async def fence(self, session: int) -> bool:
        """Say whether a session is live."""
        return await self.row(sessions.FENCE, self.present, session) is not None

    async def lock(self, keys: Iterable[int] = (), ids: Iterable[str] = ()) -> dict[int, Row]:
        """Read instances; one whose id is only the beginning of what was asked for is not among them."""
        found: dict[int, Row] = {}
        if keys := list(keys):
            found = {row[0]: Row._make(row) for row in await self.rows(instances.ROWS_BY_KEYS, keys)}
        if ids := list(ids):
            rows = map(Row._make, await self.rows(instances.ROWS_BY_IDS, ids))
            # SQLite reads a JSON text up to its first null character.
            found |= {row.key: row for row in rows if row.id in ids}
        return found

    async def channels(self, names: Iterable[str]) -> dict[str, ChannelRow]:
        """Read channels."""
        names = list(names)
        return {row[0]: ChannelRow._make(row) for row in await self.rows(topics.CHANNELS, names)} if names else {}

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T | Refused:
        """Do a part within a savepoint, and undo it if a value is refused or its result is False."""
        self.connection.execute("SAVEPOINT attempt")
        refused: Refused | None = None
        result: T | None = None
        try:
            result = await work()
        except _REFUSALS as error:
            refused = Refused(f"{type(error).__name__}: {error}")
        if refused is not None or result is False:
            self.connection.execute("ROLLBACK TO attempt")
        self.connection.execute("RELEASE attempt")
        return cast("T", result) if refused is None else refused

    def _execute(self, sql: Statement, parameters: Sequence[Any]) -> sqlite3.Cursor:
        text = sql.sqlite if isinstance(sql, Dialects) else sql
        return self.connection.execute(text, [json.dumps(it) if isinstance(it, list) else it for it in parameters])
