"""Batches of entries, and the rows that they find, for comparing the ways of committing."""

from __future__ import annotations

from hypothesis import strategies as st

from romancy.core.events import EventKind, Note
from romancy.core.records import LEAVE, Entry, NextRun, Status
from romancy.testing.storage_suite.making import CLOSING, RECURRING, note, send

SESSION = 7
NOW = 1_000_000
KEYS = (1, 2, 3, 4)

ROW = {
    "execution_id": 50,
    "session": SESSION,
    "status": 1,
    "run": 0,
    "next_seq": 2,
    "drained_seq": 2,
    "wake_at": 5,
    "inbox_seq": 3,
    "inbox_seen": 3,
    "recoveries": 1,
    "created_at": 1,
    "workflow": "order",
    "version": "1",
    "waiting_on": b"before",
    "input": b"[]",
}
OPEN_STATUSES = (Status.RUNNING, Status.PAUSED, Status.BLOCKED)

# What is common is listed first and several times: the point is in batches of which most entries hold.
rows = st.fixed_dictionaries(
    {},
    optional={
        "execution_id": st.sampled_from([50, 50, 50, 51]),
        "session": st.sampled_from([SESSION, SESSION, SESSION, 8, None]),
        "status": st.sampled_from([*[Status.RUNNING] * 4, Status.PAUSED, Status.BLOCKED]),
        "run": st.sampled_from([0, 0, 0, 1]),
        "next_seq": st.sampled_from([2, 2, 2, 3]),
        "wake_at": st.sampled_from([5, None, NOW, NOW + 5]),
        "inbox_seq": st.sampled_from([3, 3, 4]),
        "inbox_seen": st.sampled_from([3, 3, 2]),
    },
)


@st.composite
def entries(draw: st.DrawFn, key: int) -> Entry:
    notes = draw(st.sampled_from([[note()], [], [note("1:a"), note("2:b")]]))
    status = draw(st.sampled_from([*[Status.RUNNING] * 4, Status.COMPLETED, Status.BLOCKED, Status.PAUSED]))
    next_run = draw(st.sampled_from([*[None] * 6, NextRun("order", "2", b"[2]")]))
    if status.is_closed:
        notes, next_run = [*notes, CLOSING], None
    elif next_run is not None:
        notes = [*notes, RECURRING]
    if draw(st.integers(0, 30)) == 0:
        notes = [*notes, Note(EventKind.SIDE_EFFECT, "\ud800", b"")]
    targets = [*(str(k) for k in KEYS), "nobody"]
    sends = draw(st.lists(st.sampled_from(targets), max_size=2)) if draw(st.integers(0, 8)) == 0 else []
    return Entry(
        key=key,
        execution_id=50,
        run=0,
        seq=2,
        turn=3,
        stamp=NOW + draw(st.sampled_from([-1, 0, 1])),
        notes=notes,
        consumed=draw(st.sampled_from([[], [], [], [1], [1, 2]])),
        requests=[send(to, activity_id=f"{n}:send") for n, to in enumerate(sends)],
        status=status,
        wake_at=draw(st.sampled_from([LEAVE, LEAVE, None, NOW + 9, NOW - 9])),
        inbox_seen=draw(st.sampled_from([3, 3, 3, 2, 4])),
        undrained=draw(st.sampled_from([0, 0, len(notes)])),
        is_freed=draw(st.sampled_from([False, False, True])),
        waiting_on=draw(st.sampled_from([None, b"after"])),
        reason=b"why" if status is Status.BLOCKED else None,
        build="build" if status is Status.BLOCKED else None,
        next_run=next_run,
        silenced=draw(st.sampled_from([(), (), ("1:a",), ("1:a", "3:none")])),
    )
