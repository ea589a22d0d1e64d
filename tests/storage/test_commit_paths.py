"""The commit that writes on conditions, and the one that reads and decides, do the same."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Generator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from romancy.core.records import LEAVE, Accepted, Entry, Status
from romancy.storage import sqlite_plain
from romancy.storage.commit import Answer, write
from romancy.storage.sqlite_file import connect_writer, locate
from romancy.storage.sqlite_tx import SqliteTx, drive
from romancy.testing.storage_suite.making import note
from tests.storage.batches import KEYS, NOW, ROW, SESSION, entries, rows


@contextlib.contextmanager
def database(given_rows: list[dict[str, object]], number: int = 0) -> Generator[sqlite3.Connection]:
    """Fill one of two databases, and empty it afterwards."""
    connection = connections()[number]
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO sessions VALUES (?, ?, 'b', '[]', '', '', 0, '', 0)", (SESSION, NOW + 1))
    for key, changes in zip(KEYS, given_rows, strict=True):
        row = ROW | changes | {"key": key, "id": str(key)}
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        connection.execute(f"INSERT INTO instances ({columns}) VALUES ({marks})", list(row.values()))
        for seq in range(1, 4):
            connection.execute(
                "INSERT INTO messages (key, seq, kind, channel, message_id, body, at)"
                " VALUES (?, ?, 1, 'c', 'm', x'', 0)",
                (key, seq),
            )
        for activity_id in ("1:a", "2:b"):
            connection.execute("INSERT INTO heartbeats VALUES (?, 0, ?, 1, x'')", (key, activity_id))
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")


@functools.cache
def connections() -> list[sqlite3.Connection]:
    memory = locate(":memory:")
    return [connect_writer(memory, migrate=True, lock_timeout=1, now=0) for _ in range(2)]


@pytest.fixture(scope="module", autouse=True)
def closed_connections() -> Generator[None]:
    yield
    for connection in connections():
        connection.close()
    connections.cache_clear()


def dump(connection: sqlite3.Connection) -> list[object]:
    return [
        connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall()
        for table in ("instances", "history", "messages", "sessions", "heartbeats")
    ]


def commit(connection: sqlite3.Connection, batch: Sequence[Entry]) -> list[Answer]:
    return drive(sqlite_plain.commit(SqliteTx(connection, NOW), SESSION, batch))


def decided(connection: sqlite3.Connection, batch: Sequence[Entry]) -> list[Answer]:
    return drive(write(SqliteTx(connection, NOW), SESSION, batch))


def plain_of(connection: sqlite3.Connection, batch: Sequence[Entry]) -> list[Entry]:
    return drive(sqlite_plain.plain_of(SqliteTx(connection, NOW), SESSION, batch))


def write_plain(connection: sqlite3.Connection, batch: Sequence[Entry]) -> bool:
    return drive(sqlite_plain.write_plain(SqliteTx(connection, NOW), SESSION, batch))


@settings(max_examples=400, deadline=None)
@given(st.lists(rows, min_size=4, max_size=4), st.tuples(*(entries(key) for key in KEYS)))
def test_both_paths_agree(given_rows: list[dict[str, object]], batch: tuple[Entry, ...]) -> None:
    with database(given_rows) as one, database(given_rows, 1) as other:
        assert commit(one, batch) == decided(other, batch)
        assert dump(one) == dump(other)


@settings(max_examples=200, deadline=None)
@given(st.tuples(*(entries(key) for key in KEYS)))
def test_both_paths_agree_when_all_entries_hold(batch: tuple[Entry, ...]) -> None:
    with database([{}] * 4) as one, database([{}] * 4, 1) as other:
        assert commit(one, batch) == decided(other, batch)
        assert dump(one) == dump(other)


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, min_size=4, max_size=4), st.tuples(*(entries(key) for key in KEYS)))
def test_commit_twice_answers_the_same_and_writes_nothing(
    given_rows: list[dict[str, object]], batch: tuple[Entry, ...]
) -> None:
    with database(given_rows) as connection:
        first = commit(connection, batch)
        after = dump(connection)
        second = commit(connection, batch)
        assert dump(connection) == after
        for one, other in zip(first, second, strict=True):
            if isinstance(one, Accepted):
                assert isinstance(other, Accepted)
                assert (one.outcomes, one.recipients) == (other.outcomes, other.recipients)


@settings(max_examples=200, deadline=None)
@given(st.lists(rows, min_size=4, max_size=4), st.tuples(*(entries(key) for key in KEYS)))
def test_instance_with_mail_stays_claimable(given_rows: list[dict[str, object]], batch: tuple[Entry, ...]) -> None:
    """Whatever an owner writes into `wake_at`: what it has not seen keeps the instance due."""
    owned = [row | {"session": SESSION} for row in given_rows]
    with database(owned) as connection:
        answers = commit(connection, batch)
        found = connection.execute("SELECT wake_at, inbox_seq, inbox_seen, session, status FROM instances ORDER BY key")
        for entry, answer, (wake_at, inbox_seq, inbox_seen, session, status) in zip(
            batch, answers, found.fetchall(), strict=True
        ):
            if isinstance(answer, Accepted) and not Status(status).is_closed and inbox_seq > inbox_seen:
                assert answer.mailed
                assert (entry.wake_at == LEAVE and session is not None) or wake_at <= NOW


def test_ordinary_turns_need_no_decision() -> None:
    batch = [
        Entry(key, 50, 0, 2, 3, NOW, [note()], [], [], status, wake_at, 3)
        for key, status, wake_at in zip(
            KEYS,
            (Status.RUNNING, Status.RUNNING, Status.COMPLETED, Status.BLOCKED),
            (LEAVE, None, None, NOW),
            strict=True,
        )
    ]
    with database([{}] * 4) as connection:
        assert plain_of(connection, batch) == batch
        assert write_plain(connection, batch)


@pytest.mark.parametrize("change", [{"inbox_seq": 4}, {"next_seq": 3}, {"session": 8}, {"status": 2}], ids=str)
def test_entries_whose_conditions_are_not_met_are_decided(change: dict[str, object]) -> None:
    batch = [Entry(key, 50, 0, 2, 3, NOW, [note()], [], [], Status.RUNNING, LEAVE, 3) for key in KEYS]
    with database([{}, {}, change, {}]) as connection:
        assert not write_plain(connection, batch)


def test_instances_with_mail_are_decided_and_the_others_not() -> None:
    batch = [Entry(key, 50, 0, 2, 3, NOW, [note()], [], [], Status.RUNNING, LEAVE, 3) for key in KEYS]
    with database([{}, {"inbox_seq": 4}, {}, {}]) as connection:
        assert [entry.key for entry in plain_of(connection, batch)] == [1, 3, 4]
        assert commit(connection, batch)[1] == Accepted([], mailed=True)
