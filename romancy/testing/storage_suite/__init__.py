"""What every `Storage` must do, as tests that a back end joins.

The suite talks to the `romancy.storage.protocol.Storage` of the back end alone. A back end joins with what it takes to
make an empty database and storages on it, in a file that pytest collects::

    import pytest
    from romancy.testing.clock import ShiftedClock
    from romancy.testing.storage_suite import Database, StorageSuite

    class MyDatabase(Database):
        def __init__(self, dsn: str) -> None:
            self.clock = ShiftedClock()
            self.dsn = dsn

        def storage(self) -> MyStorage:
            return MyStorage(self.dsn, clock=self.clock)

        async def execute(self, sql: str) -> list[tuple]:
            ...  # on a connection of its own, committed; returns the rows

    class TestMyStorage(StorageSuite):
        @pytest.fixture
        def database(self) -> Iterator[MyDatabase]:
            with fresh_schema() as dsn:
                yield MyDatabase(dsn)
"""

from __future__ import annotations

import pkgutil

import pytest

# Before any of them is imported: a failing assertion then shows its values, as it does in a test file.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from romancy.testing.storage_suite.database import TABLES, Database  # noqa: E402 - see above
from romancy.testing.storage_suite.history import HistorySuite  # noqa: E402


class OneProcessSuite(
    HistorySuite,
):
    """All that a back end must do for one process at a time: for one that others can't reach, such as memory."""


class StorageSuite(OneProcessSuite):
    """All that a back end must do."""


__all__ = ["TABLES", "Database", "HistorySuite", "OneProcessSuite", "StorageSuite"]
