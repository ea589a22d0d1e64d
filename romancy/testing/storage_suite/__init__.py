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

from romancy.testing.storage_suite.acknowledgements import AcknowledgementsSuite  # noqa: E402
from romancy.testing.storage_suite.changes import ChangesSuite, WaitingSuite  # noqa: E402
from romancy.testing.storage_suite.children import ChildrenSuite  # noqa: E402
from romancy.testing.storage_suite.claims import ClaimsSuite  # noqa: E402
from romancy.testing.storage_suite.commit import CommitSuite  # noqa: E402
from romancy.testing.storage_suite.database import TABLES, Database  # noqa: E402 - see above
from romancy.testing.storage_suite.families import FamiliesSuite  # noqa: E402
from romancy.testing.storage_suite.fences import FencesSuite  # noqa: E402
from romancy.testing.storage_suite.heartbeats import HeartbeatsSuite  # noqa: E402
from romancy.testing.storage_suite.history import HistorySuite  # noqa: E402
from romancy.testing.storage_suite.holders import HoldersSuite  # noqa: E402
from romancy.testing.storage_suite.inbox import InboxSuite  # noqa: E402
from romancy.testing.storage_suite.instances import InstancesSuite  # noqa: E402
from romancy.testing.storage_suite.listing import ListingSuite  # noqa: E402
from romancy.testing.storage_suite.pauses import PausesSuite  # noqa: E402
from romancy.testing.storage_suite.retention import RetentionSuite  # noqa: E402
from romancy.testing.storage_suite.sends import SendsSuite  # noqa: E402
from romancy.testing.storage_suite.sessions import SessionsSuite  # noqa: E402
from romancy.testing.storage_suite.topics import TopicsSuite  # noqa: E402
from romancy.testing.storage_suite.transactions import TransactionsSuite  # noqa: E402


class OneProcessSuite(
    AcknowledgementsSuite,
    WaitingSuite,
    ClaimsSuite,
    CommitSuite,
    FencesSuite,
    HeartbeatsSuite,
    HistorySuite,
    InboxSuite,
    InstancesSuite,
    ListingSuite,
    PausesSuite,
    RetentionSuite,
    SendsSuite,
    SessionsSuite,
    TopicsSuite,
    HoldersSuite,
    ChildrenSuite,
    FamiliesSuite,
    TransactionsSuite,
):
    """All that a back end must do for one process at a time: for one that others can't reach, such as memory."""


class StorageSuite(OneProcessSuite, ChangesSuite):
    """All that a back end must do."""


__all__ = [
    "TABLES",
    "AcknowledgementsSuite",
    "ChangesSuite",
    "ChildrenSuite",
    "ClaimsSuite",
    "CommitSuite",
    "Database",
    "FamiliesSuite",
    "FencesSuite",
    "HeartbeatsSuite",
    "HistorySuite",
    "HoldersSuite",
    "InboxSuite",
    "InstancesSuite",
    "ListingSuite",
    "OneProcessSuite",
    "PausesSuite",
    "RetentionSuite",
    "SendsSuite",
    "SessionsSuite",
    "StorageSuite",
    "TopicsSuite",
    "TransactionsSuite",
    "WaitingSuite",
]
