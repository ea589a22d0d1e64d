"""Instances that go on in another way: tried again where they failed, or run again from some place on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from romancy.client.options import check_start_tags, deadline_after
from romancy.client.sender import Sender
from romancy.core import registry
from romancy.core.calls import ActivityCall, Call, WorkflowCall
from romancy.core.codec import Subject, check_size, encode_value
from romancy.core.entropy import random_bytes
from romancy.core.events import Copied, Event, EventKind, Note, Resumption, copied_by
from romancy.core.instance_ids import check_instance_id
from romancy.core.records import Branch, InboxItem, InboxKind, NewInstance, Status
from romancy.core.versions import version_key
from romancy.errors import InstanceClosedError, InstanceNotFoundError, InstanceRunningError
from romancy.replay.rewinding import CanNotRewindError, Rewound, rerun, retried

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from romancy.core.definitions import Activity, Workflow
    from romancy.core.records import Instance

_encode = msgspec.json.Encoder().encode


class Brancher(Sender):
    """Retry and rerun instances."""

    async def retry(self, id: str) -> None:
        """Let an instance that is blocked or has failed go on; see `Handle.retry`."""
        row = await self._row(id)
        if row.status is Status.BLOCKED:
            await self.storage.unblock(id)
        elif row.status is Status.FAILED:
            await self.storage.rewind(await self._retried(row))
        else:
            what = "it has not failed" if row.status.is_closed else "it goes on by itself"
            again = ": rerun it to have it run again" if row.status.is_closed else ""
            error = InstanceClosedError if row.status.is_closed else InstanceRunningError
            msg = f"instance {id!r} can't be retried: {what}, it is {_shown(row.status)}{again}"
            raise error(msg)
        self._once_committed(self._on_change)

    async def _retried(self, row: Instance) -> list[Branch]:
        """Return how an instance goes on, and with it the children whose failures have made it fail."""
        events = await self.storage.history(row.key, run=row.run)
        try:
            rewound = retried(events)
        except CanNotRewindError as exc:
            msg = f"instance {row.id!r} {exc}"
            raise InstanceClosedError(msg) from None
        resumption = Resumption(row.execution_id, row.id, random_bytes(6).hex(), rewound.activity_id)
        resumption = msgspec.structs.replace(resumption, outcomes=tuple(rewound.outcomes))
        branches = [self._branch(row, events, rewound, resumption)]
        if rewound.failed_child is not None:
            branches += await self._retried(await self._failed_child(row, rewound.failed_child))
        return branches

    async def _failed_child(self, row: Instance, activity_id: str) -> Instance:
        links = await self.storage.children(row.key)
        link = next((each for each in links if (each.run, each.activity_id) == (row.run, activity_id)), None)
        found = await self.storage.get_many([link.key]) if link is not None else ()
        for child in found:
            if child.status is Status.FAILED:
                return child
            msg = f"instance {row.id!r} can't be retried: its child {child.id!r} is {_shown(child.status)}"
            raise InstanceClosedError(f"{msg}, and only what has failed can; rerun it from {activity_id!r}")
        msg = f"instance {row.id!r} can't be retried: its child {activity_id!r} was purged; rerun it from there"
        raise InstanceClosedError(msg)

    async def _rerun(
        self,
        id: str,
        *,
        from_activity: str | None,
        input: Call[Any] | Mapping[str, object] | None,
        new_id: str | None,
        tags: Mapping[str, str] | None,
        timeout: timedelta | float | None,
    ) -> Instance:
        """Start what `Client.rerun` describes, and return it."""
        row = await self._row(id)
        chosen = random_bytes(16).hex() if new_id is None else new_id
        check_instance_id(chosen)
        now = self._clock.now()
        execution_id = int.from_bytes(random_bytes(8), "big") >> 2
        new = NewInstance(
            id=chosen,
            execution_id=execution_id,
            workflow=row.workflow,
            version=row.version,
            input=row.input,
            wake_at=now,
            deadline=deadline_after(timeout, now),
            priority=row.priority,
            tags=check_start_tags(_tags_of(row) if tags is None else tags, "rerun(tags=...)"),
            trace_context=self._observers.begin(execution_id),
        )
        workflow = registry.find_workflow(row.workflow, row.version)
        if from_activity is None:
            if input is not None:
                new = msgspec.structs.replace(new, input=self._arguments(input, row.workflow, workflow))
            created = await self.storage.create(new)
        else:
            created = await self.storage.branch(new, await self._rerun_branch(row, new, from_activity, input))
        self._once_committed(self._on_change)
        return created.instance

    async def _rerun_branch(
        self, row: Instance, new: NewInstance, activity_id: str, input: Call[Any] | Mapping[str, object] | None
    ) -> Branch:
        events = await self.storage.history(row.key, run=row.run)
        try:
            rewound = rerun(events, activity_id)
        except CanNotRewindError as exc:
            msg = f"instance {row.id!r} {exc}"
            raise ValueError(msg) from None
        resumption = Resumption(new.execution_id, new.id, random_bytes(6).hex(), activity_id)
        if input is not None:
            arguments = self._input_of(activity_id, EventKind(events[rewound.cut].kind), input)
            resumption = msgspec.structs.replace(resumption, input=msgspec.Raw(arguments))
        branch = self._branch(row, events, rewound, resumption)
        earlier = copied_by(events)
        seed = (row.execution_id, row.id) if earlier is None else (earlier.seed, earlier.seed_id)
        copied = Copied(row.id, *seed)
        mark = Event(0, 1, row.started_at or branch.events[0].stamp, EventKind.RUN_COPIED, None, _encode(copied))
        turn = max(rewound.turn, 2)  # the first is the one that the copy's own event is of
        moved = [event._replace(seq=event.seq + 1, turn=turn) for event in branch.events]
        return msgspec.structs.replace(branch, events=[mark, *moved])

    def _branch(self, row: Instance, events: Sequence[Event], rewound: Rewound, resumption: Resumption) -> Branch:
        now = self._clock.now()
        stamp = max([now, *(event.stamp for event in events[rewound.cut - 1 : rewound.cut])])
        notes = [Note(EventKind.RUN_RESUMED, None, _encode(resumption)), *rewound.again]
        return Branch(
            key=row.key,
            execution_id=row.execution_id,
            run=row.run,
            next_seq=row.next_seq,
            cut=rewound.cut,
            events=[Event(seq, rewound.turn, stamp, *note) for seq, note in enumerate(notes, rewound.cut)],
            open_children=rewound.open_children,
            lost_children=rewound.lost_children,
            subscriptions=rewound.subscriptions,
            letters=[
                InboxItem(
                    0,
                    InboxKind.MESSAGE,
                    letter.channel,
                    letter.envelope.message_id,
                    letter.envelope.sender,
                    bytes(letter.envelope.body),
                    letter.envelope.at,
                    _encode(letter.envelope.headers) if letter.envelope.headers else None,
                )
                for letter in rewound.letters
            ],
            kept=events[rewound.cut - 1] if rewound.cut else None,
            deadline=row.deadline if row.deadline is not None and row.deadline > now else None,
        )

    def _input_of(self, activity_id: str, kind: EventKind, input: Call[Any] | Mapping[str, object]) -> bytes:
        """Return what an activity or a child is to be given, encoded.

        Raises:
            ValueError: What is recorded under the id takes no input.
        """
        name = activity_id.partition(":")[2]
        if kind in {EventKind.CHILD_STARTED, EventKind.CHILD_CLOSED}:
            known = [each for each in registry.workflows() if each.name == name]
            newest = max(known, key=lambda each: version_key(each.version), default=None)
            return self._arguments(input, name, newest)
        if kind not in _OF_ACTIVITIES:
            msg = f"{activity_id!r} takes no input: it is no activity and no child"
            raise ValueError(msg)
        return self._arguments(input, name, registry.find_activity(name))

    def _arguments(
        self,
        input: Call[Any] | Mapping[str, object],
        name: str,
        definition: Activity[..., Any] | Workflow[..., Any] | None,
    ) -> bytes:
        """Return arguments encoded: those of a call, or such as are given by name.

        Raises:
            TypeError: They are something else, or those of another definition.
            CodecError: They do not fit the definition's annotations, as far as it is imported here.
        """
        if isinstance(input, ActivityCall | WorkflowCall):
            input.close()
            if input.name != name:
                msg = f"input={input!r} is the call of another definition than {name!r}"
                raise TypeError(msg)
            its = input.definition
            payload = its.signature.bind_encode(self._codec, input.args, input.kwargs, its.arguments_subject)
        elif isinstance(input, Mapping):
            subject = Subject("arguments", "activity or workflow", name)
            payload = encode_value(self._codec, dict(input), subject)
            if definition is not None:
                definition.signature.decode_arguments(self._codec, payload, definition.arguments_subject)
        else:
            msg = f"input={input!r} must be a call of {name!r}, or its arguments by name"
            raise TypeError(msg)
        check_size(payload, self._payload_limit, Subject("arguments", "activity or workflow", name))
        return payload

    async def _row(self, id: str) -> Instance:
        row = await self.storage.get(id)
        if row is None:
            msg = f"no instance has the id {id!r}"
            raise InstanceNotFoundError(msg)
        return row


_OF_ACTIVITIES = frozenset(
    {
        EventKind.ACTIVITY_COMPLETED,
        EventKind.ACTIVITY_FAILED,
        EventKind.ACTIVITY_RETRIED,
        EventKind.ACTIVITY_HANDED_OVER,
    }
)


def _shown(status: Status) -> str:
    return status.name.lower().replace("_", " ")


def _tags_of(row: Instance) -> dict[str, str]:
    return msgspec.json.decode(row.tags, type=dict[str, str]) if row.tags else {}
