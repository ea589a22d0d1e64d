"""The engine's statements on a connection that is an author's: there, instants are what asyncpg makes of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from romancy.storage.postgres_tx import Plan, PostgresTx

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg
    from asyncpg.prepared_stmt import PreparedStatement

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INSTANT = "timestamptz"


class Prepared:
    """Statements of the engine that were prepared on one connection, and where they have instants."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._known: dict[str, tuple[PreparedStatement[Any], frozenset[int], frozenset[int]]] = {}

    async def fetch(self, text: str, parameters: Sequence[object]) -> tuple[list[tuple[Any, ...]], str]:
        """Execute a statement; return its rows and its status."""
        known = self._known.get(text)
        if known is None:
            prepared = await self._connection.prepare(text)
            given = (it.name.removesuffix("[]") for it in prepared.get_parameters())
            returned = (it.type.name for it in prepared.get_attributes())
            known = self._known[text] = (prepared, _instants(given), _instants(returned))
        prepared, given_at, returned_at = known
        values = [_to_datetime(it) if index in given_at else it for index, it in enumerate(parameters)]
        found = await prepared.fetch(*values)
        rows = [tuple(_to_micros(it) if i in returned_at else it for i, it in enumerate(row)) for row in found]
        return rows, prepared.get_statusmsg() or ""


class GuestTx(PostgresTx):
    """A `PostgresTx` in an activity's transaction, which can't begin again: it waits for nobody's locks."""

    def __init__(self, prepared: Prepared, connection: asyncpg.Connection[Any], now: int, present: int | None) -> None:
        plan = Plan()
        plan.is_careful = True
        super().__init__(connection, now, present, plan, is_waiting=False)
        self._prepared = prepared

    async def _fetch(self, text: str, *parameters: object) -> list[Any]:
        return (await self._prepared.fetch(text, parameters))[0]

    async def _execute(self, text: str, *parameters: object) -> str:
        return (await self._prepared.fetch(text, parameters))[1]


def _instants(types: Iterable[str]) -> frozenset[int]:
    return frozenset(index for index, name in enumerate(types) if name in {_INSTANT, "timestamp with time zone"})


def _to_datetime(value: object) -> object:
    if isinstance(value, list):
        return [_to_datetime(it) for it in cast("list[object]", value)]
    return _EPOCH + value * _MICROSECOND if isinstance(value, int) else None


def _to_micros(value: datetime | None) -> int | None:
    return None if value is None else (value - _EPOCH) // _MICROSECOND
