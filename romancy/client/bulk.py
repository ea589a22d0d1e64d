"""Acting on all instances that a filter admits, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from romancy.core.records import Status
from romancy.errors import (
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
    WorkflowBlockedError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import timedelta

    from romancy.client.client import Client
    from romancy.core.records import Instance, InstanceFilter

_PAGE = 200
_OPEN = frozenset(status for status in Status if not status.is_closed)
_CLOSED = frozenset(Status) - _OPEN
_REFUSALS = (InstanceClosedError, InstanceNotFoundError, InstanceRunningError, WorkflowBlockedError)
_KEPT_REFUSALS = 20

Refusal: TypeAlias = "tuple[str, str]"


class BulkProgress(msgspec.Struct, frozen=True):
    """How far acting on many instances has come.

    Attributes:
        done: On how many instances it was done.
        refused: How many have refused it: they had ended meanwhile, say.
        refusals: The first of these: their ids, and why.
        cursor: Where to go on after an interruption: ``client.matching(..., after=progress.cursor)``; None: nothing was
            looked at yet.
    """

    done: int = 0
    refused: int = 0
    refusals: tuple[Refusal, ...] = ()
    cursor: str | None = None


class Bulk:
    """Something to be done to many instances, one after the other in the order of their start.

    Nothing is done until it is iterated or `run`. Each instance is a transaction of its own (cancels: each page), so
    that an interruption leaves what is done done: the cursor of the last progress tells where to go on, and doing it
    again from the beginning does no harm either. What is started after the beginning is left alone.
    """

    def __init__(
        self,
        client: Client,
        where: InstanceFilter,
        after: int,
        allowed: frozenset[Status],
        act: Callable[[Sequence[str]], Awaitable[Sequence[Refusal]]],
    ) -> None:
        self._client = client
        statuses = allowed if where.statuses is None else where.statuses & allowed
        self._where = msgspec.structs.replace(where, statuses=statuses)
        self._after = after
        self._act = act

    async def count(self) -> int:
        """Return how many instances there are to do it to, now."""
        return await self._client.storage.count(self._where, after=self._after)

    async def run(self) -> BulkProgress:
        """Do it to all of them."""
        progress = BulkProgress()
        async for reached in self:
            progress = reached
        return progress

    def __aiter__(self) -> AsyncIterator[BulkProgress]:
        return self._pages()

    async def _pages(self) -> AsyncIterator[BulkProgress]:
        progress = BulkProgress()
        last = await self._last()
        after = self._after
        while last is not None and after < last:
            rows = [row for row in await self._page(after) if row.key <= last]
            if not rows:
                return
            refusals = tuple(await self._act([row.id for row in rows]))
            after = rows[-1].key
            progress = BulkProgress(
                done=progress.done + len(rows) - len(refusals),
                refused=progress.refused + len(refusals),
                refusals=(progress.refusals + refusals)[:_KEPT_REFUSALS],
                cursor=f"{after:d}",
            )
            yield progress

    async def _page(self, after: int) -> Sequence[Instance]:
        return await self._client.storage.list(self._where, after=after, limit=_PAGE)

    async def _last(self) -> int | None:
        """Return the greatest key there is; None: there are no instances."""
        return await self._client.storage.last_key()


class Matching:
    """The instances that a filter admits: to be counted, and to be acted on all together.

    ``bulk = client.matching(workflow="fulfil", tags={"batch": "7"}).cancel("recalled")``
    """

    def __init__(self, client: Client, where: InstanceFilter, after: int) -> None:
        self._client = client
        self._where = where
        self._after = after

    async def count(self) -> int:
        """Return how many there are now."""
        return await self._client.storage.count(self._where, after=self._after)

    def cancel(self, reason: str = "", *, grace: timedelta | float | None = None) -> Bulk:
        """Ask those that have not ended to cancel; see `Handle.cancel`."""

        async def act(ids: Sequence[str]) -> Sequence[Refusal]:
            return await self._client.cancel_many(ids, reason, grace=grace)

        return self._bulk(_OPEN, act)

    def terminate(self, reason: str = "", *, recursive: bool = True) -> Bulk:
        """End those that have not ended, and what they have started; see `Handle.terminate`."""
        return self._each(_OPEN, lambda id: self._client.terminate(id, reason, recursive=recursive))

    def pause(self) -> Bulk:
        """Pause those that go on; see `Handle.pause`."""
        return self._each(frozenset({Status.PENDING, Status.RUNNING}), self._client.pause)

    def unpause(self) -> Bulk:
        """Let those go on that are paused."""
        return self._each(frozenset({Status.PAUSED}), self._client.unpause)

    def retry(self) -> Bulk:
        """Let those go on that are blocked or have failed; see `Handle.retry`."""
        return self._each(frozenset({Status.BLOCKED, Status.FAILED}), self._client.retry)

    def purge(self, *, recursive: bool = True) -> Bulk:
        """Delete those that have ended; see `Client.purge`. What one has deleted with another counts once."""

        async def purge(id: str) -> None:
            await self._client.purge(id, recursive=recursive)

        return self._each(_CLOSED, purge)

    def _each(self, allowed: frozenset[Status], act: Callable[[str], Awaitable[None]]) -> Bulk:
        async def act_on_all(ids: Sequence[str]) -> Sequence[Refusal]:
            refusals: list[Refusal] = []
            for id in ids:
                try:
                    await act(id)
                except _REFUSALS as exc:
                    refusals.append((id, str(exc)))
            return refusals

        return self._bulk(allowed, act_on_all)

    def _bulk(self, allowed: frozenset[Status], act: Callable[[Sequence[str]], Awaitable[Sequence[Refusal]]]) -> Bulk:
        wanted = self._where.statuses
        if wanted is not None and not wanted & allowed:
            named = ", ".join(sorted(status.name.lower() for status in wanted))
            fitting = ", ".join(status.name.lower() for status in sorted(allowed))
            msg = f"nothing that is {named} can take this: it is for what is {fitting}"
            raise ValueError(msg)
        return Bulk(self._client, self._where, self._after, allowed, act)
