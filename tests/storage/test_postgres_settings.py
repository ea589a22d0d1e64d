"""URLs are read whole, and what can't be understood is said, without the password."""

from __future__ import annotations

import pytest

from romancy.errors import StorageError
from romancy.storage.postgres_settings import settings_of


def test_plain_url_is_taken_as_it_is() -> None:
    settings = settings_of("postgresql://ann:secret@db.example:6543/shop?sslmode=require")
    assert settings.dsn == "postgresql://ann:secret@db.example:6543/shop?sslmode=require"
    assert (settings.schema, settings.pooler, settings.listen) == ("romancy", False, True)
    assert settings.own_dsn == settings.dsn


def test_options_of_ours_are_taken_out_and_win() -> None:
    settings = settings_of(
        "postgres://h/db?schema=other&sslmode=require&listen=0&pooler=1", direct_dsn="postgres://d/db"
    )
    assert settings.dsn == "postgres://h/db?sslmode=require"
    assert (settings.schema, settings.pooler, settings.listen) == ("other", True, False)
    assert settings.own_dsn == "postgres://d/db"


def test_socket_folder_survives() -> None:
    assert settings_of("postgresql://postgres:@/postgres?host=/tmp/x&schema=s").dsn.endswith("host=%2Ftmp%2Fx")


@pytest.mark.parametrize(("listen", "direct"), [(False, None), (True, "postgres://d/db")])
def test_behind_a_pooler_only_a_direct_connection_listens(listen: bool, direct: str | None) -> None:
    settings = settings_of("postgres://h/db?pooler=1", direct_dsn=direct)
    assert settings.listen is listen
    assert settings.own_dsn == direct


def test_no_more_transactions_than_connections() -> None:
    assert settings_of("postgres://h/db", pool_size=2, transactions_at_once=5).transactions_at_once == 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://h/db", "write postgresql://"),
        ("postgres://h/db?schema=Robert'; DROP", "schema is"),
        ("postgres://h/db?schema=" + "x" * 64, "schema is"),
        ("postgres://h/db?pooler=maybe", "write pooler=1 or pooler=0"),
        ("postgres://h/db?listen=", "write listen=1 or listen=0"),
    ],
)
def test_what_can_t_be_understood_is_said(url: str, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        settings_of(url)


@pytest.mark.parametrize(("pool_size", "transactions_at_once"), [(0, 4), (8, 0)])
def test_sizes_are_at_least_one(pool_size: int, transactions_at_once: int) -> None:
    with pytest.raises(StorageError, match="at least 1"):
        settings_of("postgres://h/db", pool_size=pool_size, transactions_at_once=transactions_at_once)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:secret@h/db",
        "postgresql://ann@h/db?password=secret",
        "postgresql://ann:secret@h/db?schema=Bad+Name",
        "mysql://ann:secret@h/db",
    ],
)
def test_password_is_in_no_message(url: str) -> None:
    try:
        said = settings_of(url).name
    except StorageError as error:
        said = str(error)
    assert "secret" not in said
    assert "ann" in said
