"""Values for tests of storage, with what a test does not care about filled in."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from romancy.core.events import EventKind, Note
from romancy.core.records import (
    LEAVE,
    Accepted,
    Claim,
    Entry,
    InboxKind,
    Instance,
    NewInstance,
    Post,
    Refused,
    Rejected,
    SessionInfo,
    Status,
)
from romancy.core.requests import Send

if TYPE_CHECKING:
    from romancy.core.clock import ManualClock
    from romancy.storage.protocol import Storage

DEFINITION = ("order", "1")
TTL = timedelta(seconds=10)
SECOND = 1_000_000

_numbers = itertools.count(1)


def note(activity_id: str = "1:charge", payload: bytes = b"{}") -> Note:
    return Note(EventKind.ACTIVITY_COMPLETED, activity_id, payload)


CLOSING = Note(EventKind.RUN_COMPLETED, None, b"null")
RECURRING = Note(EventKind.RUN_RECURRED, None, b"null")


def send(to: str, *, activity_id: str = "2:send", channel: str = "replies") -> Send:
    return Send(activity_id, to, channel, b'"hello"', f"{to}/{activity_id}")


def post(to: str, message_id: str = "", *, kind: InboxKind = InboxKind.MESSAGE, body: bytes = b'"hello"') -> Post:
    return Post(to, kind, "replies", body, message_id or f"m{next(_numbers)}")


class Worker:
    """A session, and what it does by default."""

    def __init__(self, storage: Storage, clock: ManualClock, session: int, build: str) -> None:
        self.storage = storage
        self.clock = clock
        self.session = session
        self.build = build

    @classmethod
    async def start(
        cls,
        storage: Storage,
        clock: ManualClock,
        *,
        build: str = "build",
        definitions: tuple[tuple[str, str], ...] = (DEFINITION,),
    ) -> Worker:
        session = await storage.open_session(SessionInfo(build, list(definitions), runtime="here"), TTL)
        return cls(storage, clock, session, build)

    def new(self, id: str = "", **changes: Any) -> NewInstance:
        number = next(_numbers)
        new = NewInstance(id or f"order-{number}", number, *DEFINITION, b"{}", self.clock.now())
        return msgspec.structs.replace(new, **changes)

    async def create(
        self, id: str = "", *, on_conflict: Literal["raise", "attach", "restart"] = "raise", **changes: Any
    ) -> Instance:
        creation = await self.storage.create(self.new(id, **changes), on_conflict)
        return creation.instance

    async def claim_all(self, *, limit: int = 100) -> list[Claim]:
        found = await self.storage.claim(self.session, [DEFINITION], self.build, limit=limit)
        return found.claims

    async def own(self, id: str = "", **changes: Any) -> Instance:
        """Create an instance and claim it."""
        created = await self.create(id, **changes)
        (claim,) = [c for c in await self.claim_all() if c.instance.key == created.key]
        return claim.instance

    def entry(self, instance: Instance, *notes: Note, **changes: Any) -> Entry:
        """An ordinary turn of an instance: it notes something and leaves everything else."""
        entry = Entry(
            key=instance.key,
            execution_id=instance.execution_id,
            run=instance.run,
            seq=instance.next_seq,
            turn=instance.next_seq + 1,
            stamp=self.clock.now(),
            notes=list(notes),
            consumed=(),
            requests=(),
            status=Status.RUNNING,
            wake_at=LEAVE,
            inbox_seen=instance.inbox_seen,
        )
        return msgspec.structs.replace(entry, **changes)

    async def commit(self, *entries: Entry) -> list[Accepted | Rejected | Refused]:
        return await self.storage.commit(self.session, entries)

    async def accepted(self, entry: Entry) -> Accepted:
        (answer,) = await self.commit(entry)
        assert isinstance(answer, Accepted), answer
        return answer

    async def advance(self, instance: Instance, *notes: Note, **changes: Any) -> Instance:
        """Commit an ordinary turn; return the instance after it."""
        await self.accepted(self.entry(instance, *notes, **changes))
        return await self.read(instance.id)

    async def close(self, instance: Instance) -> Instance:
        """Complete an instance."""
        return await self.advance(instance, CLOSING, status=Status.COMPLETED, wake_at=None)

    async def read(self, id: str) -> Instance:
        instance = await self.storage.get(id)
        assert instance is not None
        return instance
