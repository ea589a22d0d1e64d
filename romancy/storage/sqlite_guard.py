"""What an activity's own SQL may not do on the connection that it shares with the engine."""

from __future__ import annotations

import functools
import re
import sqlite3
from typing import TYPE_CHECKING, TypeVar

from romancy.errors import NonRetryableError
from romancy.storage import migrations

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_HARMLESS = frozenset(
    {
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_FUNCTION,
        sqlite3.SQLITE_RECURSIVE,
        sqlite3.SQLITE_SAVEPOINT,
    }
)
_LASTING = {
    sqlite3.SQLITE_ATTACH: "ATTACH",
    sqlite3.SQLITE_DETACH: "DETACH",
    sqlite3.SQLITE_CREATE_TEMP_INDEX: "CREATE TEMP INDEX",
    sqlite3.SQLITE_CREATE_TEMP_TABLE: "CREATE TEMP TABLE",
    sqlite3.SQLITE_CREATE_TEMP_TRIGGER: "CREATE TEMP TRIGGER",
    sqlite3.SQLITE_CREATE_TEMP_VIEW: "CREATE TEMP VIEW",
}
# All others set something that outlives the transaction, or could.
_PRAGMAS = frozenset(
    {
        "foreign_key_check",
        "foreign_key_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "table_info",
        "table_list",
        "table_xinfo",
    }
)
# Of these the second argument is the table; of all others the first.
_NAME_TABLE_SECOND = frozenset(
    {
        sqlite3.SQLITE_ALTER_TABLE,
        sqlite3.SQLITE_CREATE_INDEX,
        sqlite3.SQLITE_CREATE_TRIGGER,
        sqlite3.SQLITE_DROP_INDEX,
        sqlite3.SQLITE_DROP_TRIGGER,
    }
)
_APART = "\t"


@functools.cache
def _own_tables() -> frozenset[str]:
    """Return the names of the engine's tables, and of the one in which SQLite keeps the keys that were given away."""
    scripts = [step.script for step in migrations.load("sqlite")]
    found = (name for script in scripts for name in re.findall(r"^CREATE TABLE (\w+)", script, re.MULTILINE))
    return frozenset(found) | {"sqlite_sequence"}


class Guard:
    """Refuse statements of an activity's author when they are compiled: before they have done anything.

    The engine's own statements pass. One guard serves one connection, and is used in that connection's thread.
    """

    def __init__(self) -> None:
        self._is_installed = False
        self._is_on = False
        self._refusal: str | None = None

    def install(self, connection: sqlite3.Connection) -> None:
        """Have the connection ask; once, because SQLite then compiles every statement anew."""
        if not self._is_installed:
            connection.set_authorizer(self._judge)
            self._is_installed = True

    def run(self, sql: str, execute: Callable[[str], T]) -> T:
        """Have an author's statement executed.

        Args:
            sql: The statement.
            execute: Is given the statement as it must reach the connection. That keeps statements of the same text
                apart which the engine has compiled, unasked, and which the connection remembers.

        Raises:
            NonRetryableError: It must not be.
            sqlite3.Error: As the database says.
        """
        self._refusal = None
        self._is_on = True
        try:
            return execute(_APART + sql)
        except sqlite3.Error as error:
            if self._refusal is None:
                raise
            raise NonRetryableError(f"{self._refusal}; refused: {sql.strip()!r}") from error
        finally:
            self._is_on = False

    def _judge(self, action: int, first: str | None, second: str | None, _: str | None, __: str | None) -> int:
        if not self._is_on or action in _HARMLESS:
            return sqlite3.SQLITE_OK
        refusal = self._refusal_of(action, first or "", second or "")
        if refusal is None:
            return sqlite3.SQLITE_OK
        self._refusal = self._refusal or refusal
        return sqlite3.SQLITE_DENY

    def _refusal_of(self, action: int, first: str, second: str) -> str | None:
        if action == sqlite3.SQLITE_TRANSACTION:
            return (
                "an activity's transaction can't be begun or ended by SQL: it commits when the activity returns and is "
                "rolled back when it raises; for less than all of it, use savepoints"
            )
        if action in _LASTING:
            return f"{_LASTING[action]} would outlast the activity, on a connection that others use"
        if action == sqlite3.SQLITE_PRAGMA:
            if first.lower() in _PRAGMAS:
                return None
            return f"PRAGMA {first} would outlast the activity, on a connection that others use"
        table = second if action in _NAME_TABLE_SECOND else first
        if table.lower() in _own_tables():
            return f"table {table!r} is romancy's own: it may be read and not changed"
        return None
