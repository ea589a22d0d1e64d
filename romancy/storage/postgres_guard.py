"""What an activity's own SQL may not do in the transaction that it shares with the engine."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from romancy.errors import NonRetryableError
from romancy.storage import migrations

if TYPE_CHECKING:
    import asyncpg

_COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_ENDS = re.compile(
    r"\s*(BEGIN|START|COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!\s+(WORK\s+|TRANSACTION\s+)?TO))\b",
    re.IGNORECASE,
)
_SAVEPOINT = re.compile(r"\s*(SAVEPOINT|RELEASE|ROLLBACK)\b", re.IGNORECASE)
_NAME = r'(?:"?(?P<schema>\w+)"?\s*\.\s*)?"?(?P<table>\w+)"?'
_CHANGES = re.compile(
    r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|MERGE\s+INTO|TRUNCATE(?:\s+TABLE)?|(?:ALTER|DROP)\s+TABLE(?:\s+IF\s+EXISTS)?"
    r"|LOCK(?:\s+TABLE)?|COPY)\s+(?:ONLY\s+)?" + _NAME,
    re.IGNORECASE,
)
_SCHEMA_OF = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass($1)"


@functools.cache
def _own_tables() -> frozenset[str]:
    """Return the names of the engine's tables."""
    scripts = [step.script for step in migrations.load("postgres")]
    return frozenset(name for script in scripts for name in re.findall(r"^CREATE TABLE (\w+)", script, re.MULTILINE))


def is_savepoint(sql: str) -> bool:
    """Tell whether a statement is about savepoints."""
    return _SAVEPOINT.match(_COMMENTS.sub(" ", sql)) is not None


async def check(connection: asyncpg.Connection[Any], sql: str, schema: str) -> None:
    """Refuse a statement that would end the transaction, or that names a table of the engine as what it changes.

    It keeps authors from accidents, not from malice: what a function does is not seen.

    Raises:
        NonRetryableError: It is refused.
    """
    text = _COMMENTS.sub(" ", sql)
    if _ENDS.match(text):
        raise NonRetryableError(
            "an activity's transaction can't be begun or ended by SQL: it commits when the activity returns and is "
            f"rolled back when it raises; for less than all of it, use savepoints; refused: {sql.strip()!r}"
        )
    for found in _CHANGES.finditer(text):
        table = found["table"].lower()
        if table not in _own_tables():
            continue
        where = found["schema"] or await connection.fetchval(_SCHEMA_OF, table)
        if where is not None and where.strip('"').lower() == schema:
            raise NonRetryableError(
                f"table {table!r} is romancy's own: it may be read and not changed; refused: {sql.strip()!r}"
            )
