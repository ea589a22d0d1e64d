"""What a back end provides to join the suite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock

TABLES = (
    "sessions",
    "instances",
    "tags",
    "archives",
    "history",
    "messages",
    "heartbeats",
    "deliveries",
    "channels",
    "topics",
    "publications",
    "subscriptions",
    "waits",
    "children",
)
"""What the suite counts the rows of: the tables of the back ends that romancy brings."""


class Database(ABC):
    """One database of a back end, empty when a test begins and that test's own.

    Attributes:
        clock: The time by which the storages on this database store and compare instants. A test moves it by minutes
            and hours. It may stand still (`romancy.core.clock.ManualClock`) or go on (`romancy.testing.clock.
            ShiftedClock`); what it tells and what the storages take for the present may differ by some seconds.
        parameter: How a statement of an activity's author marks its first parameter.
    """

    clock: AdjustableClock
    parameter: ClassVar[str] = "?"

    @abstractmethod
    def storage(self) -> Storage:
        """Make one more storage on this database, as another process would; not opened yet. The suite closes it."""

    @abstractmethod
    async def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Execute and commit one statement of plain SQL, without any storage's help; return its rows."""

    async def count(self, table: str) -> int:
        """Count the rows of one of `TABLES`: how a test sees that nothing was written, or nothing is left.

        Override it where the tables have other names. A table that the back end has no need of has no rows.
        """
        ((rows,),) = await self.execute(f"SELECT count(*) FROM {table}")
        return int(rows)

    async def counts(self) -> dict[str, int]:
        """Count the rows of all `TABLES`."""
        return {table: await self.count(table) for table in TABLES}
