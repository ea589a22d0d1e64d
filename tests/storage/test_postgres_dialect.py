"""PostgreSQL is told what SQLite is told, in its own words."""

from __future__ import annotations

import pytest

from romancy.storage.postgres_dialect import fence, together, translate, without_waiting
from romancy.storage.sql import Dialects, delete, insert, shifted, update


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("SELECT 1", "SELECT 1"),
        ("UPDATE t SET a = ?, b = ? WHERE c = ?", "UPDATE t SET a = $1, b = $2 WHERE c = $3"),
        ("SELECT ?2, ?1, ?2", "SELECT $2, $1, $2"),
        ("SELECT a FROM t WHERE k IN (SELECT value FROM json_each(?))", "SELECT a FROM t WHERE k = ANY($1)"),
        ("SELECT a FROM t WHERE k NOT IN (SELECT value FROM json_each(?))", "SELECT a FROM t WHERE k <> ALL($1)"),
        (
            "SELECT a FROM json_each(?) k CROSS JOIN t ON t.key = k.value",
            "SELECT a FROM unnest($1::bigint[]) AS k (value) JOIN t ON t.key = k.value",
        ),
        ("SELECT a FROM t CROSS JOIN u", "SELECT a FROM t CROSS JOIN u"),
        ("SELECT a FROM t ORDER BY k /*pg FOR UPDATE */ LIMIT ?", "SELECT a FROM t ORDER BY k FOR UPDATE LIMIT $1"),
        (Dialects("ours", "theirs, $1"), "theirs, $1"),
    ],
)
def test_translation(ours: str | Dialects, theirs: str) -> None:
    assert translate(ours) == theirs


def test_statement_that_locks_can_be_told_not_to_wait() -> None:
    assert without_waiting("SELECT 1 FOR NO KEY UPDATE") == "SELECT 1 FOR NO KEY UPDATE NOWAIT"


def test_batches_become_one_statement_with_their_parameters_in_a_row() -> None:
    batches = insert("channels", ("name", "mode")), delete("messages", ("key", "seq"))
    text = together(batches)
    assert text.startswith("WITH w0 AS (INSERT INTO channels (name, mode) SELECT")
    assert "unnest($1::text[], $2::text::smallint[])" in text
    assert "unnest($3::text::bigint[], $4::text::integer[])" in text
    assert "messages.key = ANY($3::text::bigint[])" in text
    assert together(batches[:1]) == batches[0].postgres


def test_update_of_many_finds_its_rows_by_an_index() -> None:
    text = update("instances", ("next_seq",), ("key",)).postgres
    assert "SET next_seq = u.next_seq" in text
    assert text.endswith("WHERE instances.key = u.key AND instances.key = ANY($2::text::bigint[])")


def test_numbers_of_parameters_are_shifted_once_each() -> None:
    assert shifted("$1 $2 $10 $1", 3) == "$4 $5 $13 $4"


@pytest.mark.parametrize(
    ("present", "instant"), [(None, "coalesce(NULL, clock"), (5, "'epoch' + 5 * interval '1 microsecond'")]
)
def test_fence_has_no_parameters(present: int | None, instant: str) -> None:
    text = fence(7, present)
    assert "$" not in text
    assert "id = 7 FOR KEY SHARE" in text
    assert instant in text
