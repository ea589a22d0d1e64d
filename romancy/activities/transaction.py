"""An activity's own SQL, in the transaction that records its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias

import msgspec

from romancy.errors import OutsideWorkflowError

Row: TypeAlias = tuple[Any, ...]
Parameters: TypeAlias = "Sequence[object] | Mapping[str, object]"


class SqlResult(msgspec.Struct, frozen=True):
    """What a statement has come to.

    Attributes:
        rows: What it returned, in its order: of a SELECT, or of a RETURNING clause.
        rowcount: How many rows it inserted, changed or deleted; -1 if it is of another kind.
        lastrowid: The rowid of the last row that it inserted; None if it inserted none.
    """

    rows: list[Row]
    rowcount: int
    lastrowid: int | None


class Statements(Protocol):
    """What a transaction does for the activity's own SQL."""

    async def execute(self, sql: str, parameters: Parameters) -> SqlResult:
        """Execute one statement."""
        ...

    async def executemany(self, sql: str, rows: Sequence[Parameters]) -> SqlResult:
        """Execute one statement once for each row, all or none."""
        ...


class Scope(Protocol):
    """The tasks of one attempt at a transactional activity, and the transaction that they share.

    Attributes:
        is_asked: `connection` was called: from then on the storage's calls in these tasks join the transaction.
        joined: The storage's own object for the transaction, once it has one.
        after_commit: What to call when the transaction is committed; nothing of it is, if it is rolled back.
    """

    is_asked: bool
    joined: object | None
    after_commit: list[Callable[[], None]]

    async def begin(self) -> Statements:
        """Return the transaction, begun by whoever asks first.

        Raises:
            StorageError: It can't begin, or it is over.
        """
        ...

    def is_on(self, storage: object) -> bool:
        """Tell whether the transaction is one of this storage."""
        ...


current_scope: ContextVar[Scope] = ContextVar("romancy_transaction")


class Connection:
    """The database, for the SQL of a transactional activity; returned by `connection`.

    Every statement runs in the activity's one transaction, in the order of the calls, which child tasks may make too.
    A statement that fails is undone alone and its error, such as `sqlite3.IntegrityError`, is raised as it is: the
    transaction can be used further, unless the error has ended it (``ON CONFLICT ROLLBACK``, a full disk); then every
    further statement and the activity fail. A call that is cancelled may still be executed. Savepoints may be used.

    Every method raises:
        StorageError: The transaction can't begin (another process keeps the database locked), or it is over: it was
            open for longer than the app's ``transaction_limit``, or the activity has ended.
        NonRetryableError: The statement would end the transaction (BEGIN, COMMIT, ROLLBACK), change romancy's own
            tables, or leave something behind on the connection (ATTACH, temporary tables, most pragmas). Nothing of it
            is done.
    """

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def execute(self, sql: str, parameters: Parameters = ()) -> SqlResult:
        """Execute one statement and return all that it returns.

        Args:
            sql: One statement, with ``?`` or ``:name`` for its parameters on SQLite, and ``$1`` on PostgreSQL.
            parameters: A sequence, or a mapping for ``:name``.
        """
        return await (await self._scope.begin()).execute(sql, _copied(parameters))

    async def executemany(self, sql: str, rows: Iterable[Parameters]) -> SqlResult:
        """Execute one INSERT, UPDATE or DELETE once for each row of parameters: all or, if one fails, none.

        Returns:
            The sum of the row counts.
        """
        chosen = [_copied(row) for row in rows]
        return await (await self._scope.begin()).executemany(sql, chosen)

    async def fetch_all(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Execute one statement and return its rows; see `execute`."""
        return (await self.execute(sql, parameters)).rows

    async def fetch_one(self, sql: str, parameters: Parameters = ()) -> Row | None:
        """Execute one statement and return its first row, or None if it has none; see `execute`."""
        rows = await self.fetch_all(sql, parameters)
        return rows[0] if rows else None


def _copied(parameters: Parameters) -> Parameters:
    """Return parameters that the caller can't change while another thread reads them."""
    return dict(parameters) if isinstance(parameters, Mapping) else tuple(parameters)


def connection() -> Connection:
    """Return the database, for SQL that commits together with the running activity's result: both or neither.

    The activity is declared with ``@activity(transactional=True)``. Its transaction begins with the first statement. It
    commits when the activity returns, in the write that records the result; whatever else ends the activity (an
    exception, a time-out, a cancellation, the death of the process) rolls it back. So the SQL of an activity whose
    result is recorded took effect exactly once, and that of a failed attempt never did.

    From this call on, what the activity and its child tasks ask of the same `App` (``start``, ``send``, ``cancel``,
    ``get``, ...) belongs to the transaction too: an instance that is started here exists when the activity commits.

    While the transaction is open nothing else can write to a SQLite database, and the activity's own run does not go
    on, so it is bounded (``transaction_limit`` of the `App`, 2 seconds by default): then it is rolled back, and what
    the activity still does with it raises `StorageError`. Do what is slow before the first statement. SQLite does not
    enforce foreign keys here, as by its default.

    With `complete_later` the transaction commits when the attempt is handed over; what comes of it is a result of its
    own, and an attempt that fails later has committed its SQL.

    Raises:
        OutsideWorkflowError: No transactional activity of a workflow runs here.
    """
    scope = current_scope.get(None)
    if scope is None:
        msg = (
            "connection() was called where no transactional activity runs: declare the activity with "
            "@activity(transactional=True), and call it in a workflow that an open App executes"
        )
        raise OutsideWorkflowError(msg)
    scope.is_asked = True
    return Connection(scope)
