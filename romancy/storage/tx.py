"""One transaction as what is written in it sees it, whichever database it is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from romancy.core.records import Refused
    from romancy.storage.rows import ChannelRow, Row
    from romancy.storage.sql import Batch, Dialects

T = TypeVar("T")
Statement: TypeAlias = "str | Dialects"
Rows: TypeAlias = "Sequence[tuple[Any, ...]]"


class Tx(Protocol):
    """Statements within one transaction, which is committed whole or not at all.

    What a function reads with `lock` and `channels` stays as it is until the transaction is over, but for what the
    transaction does itself. Whoever needs the rows of several instances asks for all of them at once: on PostgreSQL,
    locks are taken in the order of keys, and what is asked for later may have the transaction begin again.

    Attributes:
        now: The present, by the database's clock: what is stored and compared.
        present: By what sessions are judged; None: by the server, when the statement is executed.
        may_be_done: Whether the same transaction may have been committed before, and its acknowledgement was lost.
    """

    now: int
    present: int | None
    may_be_done: bool

    async def rows(self, sql: Statement, *parameters: object) -> Rows:
        """Execute a statement and return its rows; a list among the parameters is a set of values."""
        ...

    async def row(self, sql: Statement, *parameters: object) -> tuple[Any, ...] | None:
        """Execute a statement and return its first row."""
        ...

    async def run(self, sql: Statement, *parameters: object) -> int:
        """Execute a statement and return how many rows it has touched."""
        ...

    async def write(self, *batches: tuple[Batch, Sequence[Sequence[object]]]) -> None:
        """Execute batches, in any order: none of them touches a row that another one does."""
        ...

    async def insert(self, batch: Batch, rows: Sequence[Sequence[object]]) -> Rows:
        """Execute one batch, in the order of its rows, and return what it returns."""
        ...

    async def fence(self, session: int) -> bool:
        """Say whether a session is live, and keep it from being declared dead until the transaction is over."""
        ...

    async def lock(self, keys: Iterable[int] = (), ids: Iterable[str] = ()) -> dict[int, Row]:
        """Read instances, by their keys or ids, and keep them from others until the transaction is over."""
        ...

    async def channels(self, names: Iterable[str]) -> dict[str, ChannelRow]:
        """Read channels and keep them from others, also those that do not exist."""
        ...

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T | Refused:
        """Do a part of the transaction; where the database refuses a value, undo the part and say what it refused."""
        ...
