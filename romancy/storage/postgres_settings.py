"""Where a PostgreSQL database is, and how it is talked to."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from romancy.errors import StorageError

_SCHEMES = frozenset({"postgresql", "postgres"})
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SWITCHES = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


class Settings(msgspec.Struct, frozen=True):
    """How to reach a database.

    Attributes:
        dsn: What asyncpg is given: the URL without romancy's own options.
        name: The URL without its password, for messages.
        schema: Where the tables are.
        pooler: Whether connections go through a pooler that lends servers' connections for single transactions.
        direct_dsn: Past the pooler, for what needs a connection of its own; None: there is no other way.
        listen: Whether to be woken by notifications; they need a connection of their own.
        pool_size: How many connections to hold at most, besides that which listens and those of activities.
        transactions_at_once: How many transactions to have open at a time.
    """

    dsn: str
    name: str
    schema: str = "romancy"
    pooler: bool = False
    direct_dsn: str | None = None
    listen: bool = True
    pool_size: int = 8
    transactions_at_once: int = 4

    @property
    def own_dsn(self) -> str | None:
        """Where connections are one's own; None: nowhere."""
        return self.direct_dsn if self.pooler else self.dsn


def settings_of(
    url: str,
    *,
    schema: str = "romancy",
    pooler: bool = False,
    direct_dsn: str | None = None,
    listen: bool = True,
    pool_size: int = 8,
    transactions_at_once: int = 4,
) -> Settings:
    """Read a URL; its options ``schema``, ``pooler`` and ``listen`` win over the arguments.

    Raises:
        StorageError: Something of it can't be understood.
    """
    parts, name = urlsplit(url), _without_password(url)
    if parts.scheme not in _SCHEMES:
        raise StorageError(f"{name}: write postgresql://user:password@host:port/database")
    others: list[tuple[str, str]] = []
    for option, value in parse_qsl(parts.query, keep_blank_values=True):
        match option:
            case "schema":
                schema = value
            case "pooler":
                pooler = _switch(name, option, value)
            case "listen":
                listen = _switch(name, option, value)
            case _:
                others.append((option, value))
    if not _SCHEMA.fullmatch(schema):
        raise StorageError(f"{name}: schema is {schema!r}; write a plain name of lower-case letters, digits and _")
    if pool_size < 1 or transactions_at_once < 1:
        raise StorageError(f"{name}: pool_size and transactions_at_once must be at least 1")
    return Settings(
        dsn=urlunsplit(parts._replace(query=urlencode(others))),
        name=name,
        schema=schema,
        pooler=pooler,
        direct_dsn=direct_dsn,
        listen=listen and (not pooler or direct_dsn is not None),
        pool_size=pool_size,
        transactions_at_once=min(transactions_at_once, pool_size),
    )


def _switch(name: str, option: str, value: str) -> bool:
    try:
        return _SWITCHES[value.lower()]
    except KeyError:
        raise StorageError(f"{name}: {option} is {value!r}; write {option}=1 or {option}=0") from None


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user, found, host = parts.netloc.rpartition("@")
    query = [(option, "***" if option == "password" else value) for option, value in parse_qsl(parts.query)]
    netloc = f"{user.partition(':')[0]}{found}{host}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="/*:")))
