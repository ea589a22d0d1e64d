"""A batch of entries, written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias, cast

import msgspec

from romancy.core.events import Event
from romancy.core.records import Accepted, Entry, NewInstance, Refused, Rejected
from romancy.core.requests import Publish, Send, StartChild, Subscribe
from romancy.storage.decision import decide, has_mail
from romancy.storage.effects import Effects
from romancy.storage.entries import holds
from romancy.storage.instances import insert, statuses
from romancy.storage.rows import ShownRow, SubscriptionRow
from romancy.storage.sessions import fence
from romancy.storage.sql import archives, children, heartbeats, history, instances, messages, tags, topics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from romancy.core.records import Heartbeat, Shown
    from romancy.storage.decision import Decision
    from romancy.storage.rows import ChannelRow
    from romancy.storage.tx import Tx

Answer: TypeAlias = Accepted | Rejected | Refused


async def commit(tx: Tx, session: int, entries: Sequence[Entry]) -> list[Answer]:
    """Write entries; see `romancy.storage.protocol.Storage.commit`.

    Raises:
        SessionLostError: The session is dead; nothing is written.
    """
    await begin(tx, session, entries)
    return await write(tx, session, entries)


async def begin(tx: Tx, session: int, entries: Sequence[Entry]) -> None:
    """Begin a commit: make sure that it may be made.

    Raises:
        SessionLostError: The session is dead.
        ValueError: There are two entries for an instance.
    """
    await fence(tx, session)
    if len({entry.key for entry in entries}) < len(entries):
        raise ValueError("a commit takes at most one entry per instance")


async def beat(tx: Tx, session: int, beats: Sequence[Heartbeat]) -> None:
    """Keep heartbeats; see `romancy.storage.protocol.Storage.beat`.

    Raises:
        SessionLostError: The session is dead; nothing is written.
    """
    await fence(tx, session)
    await tx.lock({beat.key for beat in beats})
    latest = {(b.key, b.run, b.activity_id): b for b in beats}.values()
    values = [(b.activity_id, b.attempt, b.details, b.key, session, b.execution_id, b.run) for b in latest]
    await tx.write((heartbeats.PUT, values))


async def write(tx: Tx, session: int, entries: Sequence[Entry]) -> list[Answer]:
    """Write entries together, or one by one when something in one of them is refused."""
    answers = await tx.attempt(lambda: write_decided(tx, session, entries))
    if not isinstance(answers, Refused):
        return answers
    return await with_mail_told(tx, entries, [await _write_alone(tx, session, entry) for entry in entries])


async def _write_alone(tx: Tx, session: int, entry: Entry) -> Answer:
    answers = await tx.attempt(lambda: write_decided(tx, session, [entry]))
    return answers if isinstance(answers, Refused) else answers[0]


async def still_holds(tx: Tx, session: int, entry: Entry) -> bool:
    """Say whether an entry holds as things stand."""
    return holds(session, entry, (await tx.lock([entry.key])).get(entry.key))


async def write_decided(tx: Tx, session: int, entries: Sequence[Entry]) -> list[Answer]:
    """Read what the entries touch, decide, and write what was decided."""
    rows = await tx.lock([entry.key for entry in entries], _targets(entries))
    holding = [entry for entry in entries if holds(session, entry, rows.get(entry.key))]
    held = {entry.key for entry in holding}
    if started := _children(holding, tx.now):
        await insert(tx, started)
        rows |= await tx.lock(ids={new.id for new in started})
    recorded = {
        entry.key: await _recorded(tx, entry) for entry in entries if entry.key in rows and entry.key not in held
    }
    channels, subscriptions = await _channels(tx, holding)
    decision = decide(
        session,
        entries,
        rows,
        {row.id: row.key for row in rows.values()},
        recorded=recorded,
        now=tx.now,
        channels=channels,
        subscriptions=subscriptions,
    )
    await tx.write(
        (instances.ADVANCE, decision.advances),
        (instances.SETTLE, decision.settlements),
        (instances.REACH, decision.reaches),
        (archives.INSERT, decision.archives),
        (history.INSERT, decision.events),
        (messages.DELETE_ONE, decision.consumed),
        (messages.INSERT, decision.messages),
        (topics.WRITE_CHANNEL, decision.topics.changed()),
        (topics.PUBLISH, decision.topics.publications),
        (topics.SUBSCRIBE, decision.topics.subscriptions),
        (topics.TAKE_OVER, [(row.run, row.channel, row.key, row.mailbox) for row in decision.topics.taken_over]),
        (children.LINK, decision.children),
        (heartbeats.DELETE_ONE, decision.silenced),
    )
    # These touch some of the same rows again.
    await tx.write((instances.OPEN_RUN, decision.openings))
    await tx.write((instances.TIE, [(1, key) for key in sorted(_tied(decision))]))
    for key, shown in decision.shown:
        await _show(tx, key, shown)
    return await _with_effects(tx, entries, decision)


async def _with_effects(tx: Tx, entries: Sequence[Entry], decision: Decision) -> list[Answer]:
    """Do what a decision means beyond its entries' own instances, and add to the answers whom that has reached."""
    answers: list[Answer] = list(decision.answers)
    attached = [link.child for link in decision.children]
    if not (decision.orders or decision.openings or decision.closings or attached):
        return answers
    effects = Effects(tx)
    for opening in decision.openings:
        await effects.begin_run(opening.key)
    await effects.obey(decision.orders)
    for key in decision.closings:
        await effects.conclude(key)
    for key, status in (await statuses(tx, attached)).items() if attached else ():
        if status.is_closed:
            await effects.tell_parents(key)
    first = next((index for index, answer in enumerate(answers) if isinstance(answer, Accepted)), None)
    if first is not None and (effects.reached or effects.has_topics or effects.ended):
        answer = cast("Accepted", answers[first])
        recipients = dict.fromkeys((*answer.recipients, *sorted(effects.reached)))
        recipients.pop(entries[first].key, None)
        has_topics = answer.has_topics or effects.has_topics
        answers[first] = msgspec.structs.replace(
            answer, recipients=tuple(recipients), has_topics=has_topics, ended=tuple(effects.ended)
        )
    return await with_mail_told(tx, entries, answers) if effects.reached else answers


async def with_mail_told(tx: Tx, entries: Sequence[Entry], answers: Sequence[Answer]) -> list[Answer]:
    """Tell again who has mail: an entry may have got some from one that was written after it."""
    rows = await tx.lock([entry.key for entry in entries])
    return [
        msgspec.structs.replace(answer, mailed=has_mail(rows[entry.key])) if isinstance(answer, Accepted) else answer
        for entry, answer in zip(entries, answers, strict=True)
    ]


def _targets(entries: Iterable[Entry]) -> dict[str, None]:
    """Return the ids of the instances that entries send to or start."""
    found: dict[str, None] = {}
    for entry in entries:
        for request in entry.requests:
            match request:
                case Send(to=id) | StartChild(id=id):
                    found[id] = None
                case _:
                    continue
    return found


def _children(entries: Iterable[Entry], now: int) -> list[NewInstance]:
    """Return the instances that entries start."""
    return [
        NewInstance(
            id=request.id,
            execution_id=request.execution_id,
            workflow=request.workflow,
            version=request.version,
            input=request.input,
            wake_at=now,
            parent=entry.key,
            trace_context=request.trace_context,
        )
        for entry in entries
        for request in entry.requests
        if isinstance(request, StartChild)
    ]


async def _channels(tx: Tx, entries: Iterable[Entry]) -> tuple[dict[str, ChannelRow], list[SubscriptionRow]]:
    """Read the channels that entries name in requests, and the subscriptions of those that subscribe."""
    named: dict[str, None] = {}
    subscribing: dict[int, None] = {}
    for entry in entries:
        for request in entry.requests:
            if isinstance(request, Send | Publish | Subscribe):
                named[request.channel] = None
            if isinstance(request, Subscribe):
                subscribing[entry.key] = None
    if not named:
        return {}, []
    channels = await tx.channels(named)
    found = await tx.rows(topics.SUBSCRIPTIONS_OF, list(subscribing)) if subscribing else ()
    return channels, [SubscriptionRow._make(row) for row in found]


def _tied(decision: Decision) -> set[int]:
    """Return the instances whose end concerns others from now on."""
    tied = {row.key for row in decision.topics.subscriptions}
    for link in decision.children:
        tied |= {link.parent, link.child}
    return tied


async def _show(tx: Tx, key: int, shown: Shown) -> None:
    """Write what an instance shows: its row's JSON for reading, and a row per tag for finding it."""
    changed = shown.tags or {}
    await tx.run(instances.SHOW, *ShownRow(shown.custom_status, json.dumps(changed), key))
    await tx.write(
        (tags.SET, [(key, name, value) for name, value in changed.items() if value is not None]),
        (tags.REMOVE, [(key, name) for name, value in changed.items() if value is None]),
    )


async def _recorded(tx: Tx, entry: Entry) -> list[Event]:
    end = entry.seq + len(entry.notes) + len(entry.requests)
    return [Event._make(row) for row in await tx.rows(history.SLICE, entry.key, entry.run, entry.seq, end)]
