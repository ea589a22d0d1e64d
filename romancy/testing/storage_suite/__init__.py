"""What every `romancy.storage.protocol.Storage` must do, as tests that a back end joins.

The tests know nothing but the protocol. To join, a back end needs a `Database`, which makes storages on one empty
database and lets a test look at its rows, and a class that inherits the tests and has a fixture ``database``, in a
file that pytest collects::

    class MyDatabase(Database):
        parameter = "$1"

        def __init__(self, dsn: str) -> None:
            self.clock = ShiftedClock()
            self.dsn = dsn

        def storage(self) -> MyStorage:
            return MyStorage(self.dsn, clock=self.clock)

        async def execute(self, sql: str) -> list[tuple[Any, ...]]:
            return await my_driver.execute_and_commit(self.dsn, sql)


    class TestMyStorage(StorageSuite):
        @pytest.fixture
        def database(self) -> Iterator[MyDatabase]:
            with an_empty_schema() as dsn:
                yield MyDatabase(dsn)

It takes pytest, with the plugin that anyio brings; the tests run on asyncio. How SQLite joins is to be seen in
romancy's ``tests/storage/test_sqlite.py``.

Time is the `Database.clock`'s: a test moves it by minutes and hours, and compares instants give or take some seconds.
So a back end may keep the time of its database's server, as long as it adds what the clock was moved by, which is
`ShiftedClock.offset`. What takes real time by the protocol (`Storage.wait_for_change`, the limit of a transaction)
takes real time here: milliseconds.

`StorageSuite` is everything. It is made of one class for each aggregate; a back end that is being built can inherit
those one by one. A back end that no second process can reach, such as one in memory, joins `OneProcessSuite`. A test
that a back end can't pass is overridden in the joining class, where it says why.

Beyond the suite are: what a back end does when its database can't be reached or a connection is lost in the middle,
that statements use their indexes, migrations, the death of real processes, and how exact its instants are.
"""

from __future__ import annotations

import pkgutil

import pytest

# Before any of them is imported: a failing assertion then shows its values, as it does in a test file.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

# ruff: noqa: E402 - the imports that must come after that
from romancy.testing.storage_suite.acknowledgements import AcknowledgementsSuite
from romancy.testing.storage_suite.branching import BranchingSuite
from romancy.testing.storage_suite.changes import ChangesSuite, WaitingSuite
from romancy.testing.storage_suite.children import ChildrenSuite
from romancy.testing.storage_suite.claims import ClaimsSuite
from romancy.testing.storage_suite.commit import CommitSuite
from romancy.testing.storage_suite.database import TABLES, Database
from romancy.testing.storage_suite.families import FamiliesSuite
from romancy.testing.storage_suite.family_races import FamilyRacesSuite
from romancy.testing.storage_suite.fences import FencesSuite
from romancy.testing.storage_suite.heartbeats import HeartbeatsSuite
from romancy.testing.storage_suite.history import HistorySuite
from romancy.testing.storage_suite.holders import HoldersSuite
from romancy.testing.storage_suite.inbox import InboxSuite
from romancy.testing.storage_suite.instances import InstancesSuite
from romancy.testing.storage_suite.listing import ListingSuite
from romancy.testing.storage_suite.pauses import PausesSuite
from romancy.testing.storage_suite.races import RacesSuite
from romancy.testing.storage_suite.retention import RetentionSuite
from romancy.testing.storage_suite.sends import SendsSuite
from romancy.testing.storage_suite.sessions import SessionsSuite
from romancy.testing.storage_suite.topics import TopicsSuite
from romancy.testing.storage_suite.transactions import TransactionsSuite


class OneProcessSuite(
    InstancesSuite,
    ListingSuite,
    PausesSuite,
    HistorySuite,
    CommitSuite,
    FencesSuite,
    AcknowledgementsSuite,
    SendsSuite,
    InboxSuite,
    ClaimsSuite,
    SessionsSuite,
    WaitingSuite,
    TopicsSuite,
    HoldersSuite,
    ChildrenSuite,
    FamiliesSuite,
    BranchingSuite,
    HeartbeatsSuite,
    TransactionsSuite,
    RetentionSuite,
):
    """What a back end must do for one process; for a database that no other process can reach, it is all."""


class ManyProcessesSuite(ChangesSuite, RacesSuite, FamilyRacesSuite):
    """What a back end must do for processes that use one database at the same time."""


class StorageSuite(OneProcessSuite, ManyProcessesSuite):
    """All that a back end must do."""


__all__ = [
    "TABLES",
    "AcknowledgementsSuite",
    "BranchingSuite",
    "ChangesSuite",
    "ChildrenSuite",
    "ClaimsSuite",
    "CommitSuite",
    "Database",
    "FamiliesSuite",
    "FamilyRacesSuite",
    "FencesSuite",
    "HeartbeatsSuite",
    "HistorySuite",
    "HoldersSuite",
    "InboxSuite",
    "InstancesSuite",
    "ListingSuite",
    "ManyProcessesSuite",
    "OneProcessSuite",
    "PausesSuite",
    "RacesSuite",
    "RetentionSuite",
    "SendsSuite",
    "SessionsSuite",
    "StorageSuite",
    "TopicsSuite",
    "TransactionsSuite",
    "WaitingSuite",
]
