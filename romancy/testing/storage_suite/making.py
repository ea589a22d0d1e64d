"""Values for the suite's tests, with what a test does not care about filled in."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from romancy.core.events import EventKind, Note
from romancy.core.records import (
    LEAVE,
    Accepted,
    Claim,
    Claims,
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
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock

DEFINITION = ("order", "1")
"""What workers serve, and instances are, unless a test says something else."""

MINUTE = 60.0
"""In seconds: by this much a test moves the clock, at least. What takes real time takes less."""

TTL = timedelta(hours=1)
"""How long a session lives."""

NEVER = 2**60
"""An instant that no test gets to."""

CLOSING = Note(EventKind.RUN_COMPLETED, None, b"null")
RECURRING = Note(EventKind.RUN_RECURRED, None, b"null")

_SLACK = 20_000_000  # of a test's real time and of the clocks of two machines, in microseconds
_numbers = itertools.count(1)


def about(instant: int) -> Any:
    """Return something that equals an instant, give or take what a test's real time amounts to."""
    return pytest.approx(instant, abs=_SLACK, rel=0)


def outlive(clock: AdjustableClock, duration: timedelta = TTL) -> None:
    """Move the clock to where a duration is certainly over."""
    clock.advance(duration.total_seconds() + MINUTE)


def note(activity_id: str = "1:charge", payload: bytes = b"{}") -> Note:
    """Return what a turn notes of an activity that has completed."""
    return Note(EventKind.ACTIVITY_COMPLETED, activity_id, payload)


def send(to: str, *, activity_id: str = "2:send", channel: str = "replies") -> Send:
    """Return a request to send to an instance; its message id is made of target and activity id."""
    return Send(activity_id, to, channel, b'"hello"', f"{to}/{activity_id}")


def post(to: str, message_id: str = "", *, kind: InboxKind = InboxKind.MESSAGE, body: bytes = b'"hello"') -> Post:
    """Return a post to an instance, with a message id of its own unless one is given."""
    return Post(to, kind, "replies", body, message_id or f"m{next(_numbers)}")


class Worker:
    """A session, and what it does by default."""

    def __init__(self, storage: Storage, clock: AdjustableClock, session: int, build: str) -> None:
        self.storage = storage
        self.clock = clock
        self.session = session
        self.build = build

    @classmethod
    async def start(
        cls,
        storage: Storage,
        clock: AdjustableClock,
        *,
        build: str = "build",
        definitions: tuple[tuple[str, str], ...] = (DEFINITION,),
        process: str = "",
    ) -> Worker:
        """Open a session."""
        info = SessionInfo(build, list(definitions), runtime="here", process=process)
        return cls(storage, clock, await storage.open_session(info, TTL), build)

    def at(self, minutes: float) -> int:
        """Return the instant that lies so many minutes from now; what is due lies in the past."""
        return self.clock.now() + round(minutes * MINUTE * 1_000_000)

    def new(self, id: str = "", **changes: Any) -> NewInstance:
        """Return an instance to be created, which has been due for a minute."""
        number = next(_numbers)
        new = NewInstance(id or f"order-{number}", number, *DEFINITION, b"{}", self.at(-1))
        return msgspec.structs.replace(new, **changes)

    async def create(
        self, id: str = "", *, on_conflict: Literal["raise", "attach", "restart"] = "raise", **changes: Any
    ) -> Instance:
        """Create an instance."""
        creation = await self.storage.create(self.new(id, **changes), on_conflict)
        return creation.instance

    async def claim(self, *definitions: tuple[str, str], limit: int = 100) -> Claims:
        """Claim what is due of some definitions, or of the usual one."""
        return await self.storage.claim(self.session, definitions or (DEFINITION,), self.build, limit=limit)

    async def claim_all(self) -> list[Claim]:
        """Claim what is due of the usual definition."""
        return (await self.claim()).claims

    async def own(self, id: str = "", **changes: Any) -> Instance:
        """Create an instance and claim it."""
        created = await self.create(id, **changes)
        (claim,) = [c for c in await self.claim_all() if c.instance.key == created.key]
        return claim.instance

    def entry(self, instance: Instance, *notes: Note, **changes: Any) -> Entry:
        """Return an ordinary turn of an instance: it notes something and leaves everything else."""
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
        """Commit a batch."""
        return await self.storage.commit(self.session, entries)

    async def accepted(self, entry: Entry) -> Accepted:
        """Commit an entry that must be accepted."""
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

    async def block(self, id: str, *, minutes: float = -1, **changes: Any) -> Instance:
        """Create an instance, own it, and have this worker's build block it, due in so many minutes."""
        return await self.advance(
            await self.own(id, **changes),
            status=Status.BLOCKED,
            wake_at=self.at(minutes),
            is_freed=True,
            reason=b"{}",
            build=self.build,
        )

    async def read(self, id: str) -> Instance:
        """Read an instance that must exist."""
        instance = await self.storage.get(id)
        assert instance is not None, id
        return instance


def payloads(answer: Accepted | Rejected | Refused) -> list[bytes | None]:
    """Return the outcomes of an accepted entry's requests as they are recorded."""
    assert isinstance(answer, Accepted), answer
    return [event.payload for event in answer.outcomes]


def tags_of(instance: Instance) -> dict[str, str]:
    """Return what an instance shows as its tags."""
    found: dict[str, str] = json.loads(instance.tags or "{}")
    return found
