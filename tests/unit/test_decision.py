"""The decision function by itself: what a batch does to rows, without a database."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from romancy.core.events import Event, EventKind, Note
from romancy.core.records import (
    LEAVE,
    Accepted,
    Entry,
    InboxKind,
    NextRun,
    Rejected,
    Status,
)
from romancy.core.requests import Send
from romancy.storage.decision import Decision, decide
from romancy.storage.rows import Advance, HistoryRow, MessageRow, Opening, Reach, Row, Settlement
from romancy.storage.waking import parked_until, wake_for_mail

SESSION = 7
NOW = 1000
DONE = Note(EventKind.ACTIVITY_COMPLETED, "1:charge", b"{}")
CLOSED = Note(EventKind.RUN_COMPLETED, None, b"null")


def row(key: int = 1, **changes: object) -> Row:
    given = Row(
        key=key,
        id=f"id-{key}",
        execution_id=50,
        session=SESSION,
        status=Status.RUNNING,
        run=0,
        next_seq=2,
        drained_seq=2,
        wake_at=5,
        inbox_seq=0,
        inbox_seen=0,
        recoveries=3,
        ties=0,
    )
    return given._replace(**changes)  # type: ignore[arg-type]


def entry(key: int = 1, *notes: Note, **changes: object) -> Entry:
    given = Entry(
        key=key,
        execution_id=50,
        run=0,
        seq=2,
        turn=3,
        stamp=900,
        notes=list(notes),
        consumed=[],
        requests=[],
        status=Status.RUNNING,
        wake_at=LEAVE,
        inbox_seen=0,
    )
    return msgspec.structs.replace(given, **changes)


def send(to: int, activity_id: str = "2:send") -> Send:
    return Send(activity_id, f"id-{to}", "replies", b'"hello"', f"message-{activity_id}")


def decided(entries: list[Entry], rows: list[Row], recorded: dict[int, list[Event]] | None = None) -> Decision:
    return decide(
        SESSION,
        entries,
        {r.key: r for r in rows},
        {r.id: r.key for r in rows},
        recorded=recorded or {},
        now=NOW,
    )


def settlement(entry_: Entry, row_: Row, *others: Row) -> Settlement:
    (found,) = decided([entry_], [row_, *others]).settlements
    return found


def nothing_for_others(decision: Decision) -> dict[str, Any]:
    """The fields of a decision that concerns no topic, child or parent."""
    topics = decision.topics
    assert not topics.changed()
    assert (topics.publications, topics.subscriptions, topics.taken_over) == ([], [], [])
    return {"topics": topics, "children": [], "orders": [], "closings": []}


def test_ordinary_turn_advances_and_nothing_else() -> None:
    decision = decided([entry(1, DONE)], [row()])
    assert decision == Decision(
        answers=[Accepted([])],
        events=[HistoryRow(1, 0, 2, 3, 900, EventKind.ACTIVITY_COMPLETED, "1:charge", b"{}")],
        consumed=[],
        messages=[],
        advances=[Advance(next_seq=3, drained_seq=3, recoveries=0, key=1)],
        settlements=[],
        reaches=[],
        openings=[],
        **nothing_for_others(decision),
    )


def test_entry_without_events_keeps_recoveries() -> None:
    assert decided([entry()], [row()]).advances == [Advance(2, 2, 3, 1)]


def test_decide_leaves_its_arguments_alone() -> None:
    rows = {1: row(1), 2: row(2)}
    ids = {"id-1": 1, "id-2": 2}
    entries = [entry(1, DONE, requests=[send(2)], wake_at=None)]
    before = copy.deepcopy((rows, ids, entries))
    decide(SESSION, entries, rows, ids, recorded={}, now=NOW)
    assert (rows, ids, entries) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"session": 8}, "owned by session 8, not 7"),
        ({"session": None}, "owned by session None"),
        ({"execution_id": 51}, "started anew"),
        ({"run": 1}, "stands at run 1, event 2, not at run 0, event 2"),
        ({"next_seq": 3}, "stands at run 0, event 3"),
        ({"next_seq": 1}, "stands at run 0, event 1"),
        ({"status": Status.TERMINATED, "session": None}, "ended"),
    ],
)
def test_entry_that_does_not_hold_is_rejected(changes: dict[str, Any], reason: str) -> None:
    decision = decided([entry(1, DONE, requests=[send(2)], consumed=[1])], [row(**changes), row(2)])
    (answer,) = decision.answers
    assert isinstance(answer, Rejected)
    assert reason in answer.reason
    assert decision == Decision([answer], [], [], [], [], [], [], [], **nothing_for_others(decision))


def test_entry_of_an_unknown_instance_is_rejected() -> None:
    assert decided([entry(1, DONE)], []).answers == [Rejected("the instance is gone")]


def test_rejection_does_not_touch_the_rest_of_the_batch() -> None:
    decision = decided([entry(1, DONE), entry(2, DONE)], [row(1, session=8), row(2)])
    assert [type(answer) for answer in decision.answers] == [Rejected, Accepted]
    assert [advance.key for advance in decision.advances] == [2]


class TestRecognition:
    recorded = Event(2, 3, 900, EventKind.ACTIVITY_COMPLETED, "1:charge", b"{}")

    def test_written_entry_is_accepted_with_its_outcomes(self) -> None:
        outcomes = [
            Event(3, 4, 900, EventKind.MESSAGE_SENT, "2:send", b"0"),
            Event(4, 4, 900, EventKind.MESSAGE_SENT, "3:send", b"1"),
        ]
        decision = decided(
            [entry(1, DONE, requests=[send(2, "2:send"), send(3, "3:send")])],
            [row(next_seq=9, inbox_seq=1), row(2), row(3)],
            {1: [self.recorded, *outcomes]},
        )
        answer = Accepted(outcomes, mailed=True, recipients=(2,))
        assert decision == Decision([answer], [], [], [], [], [], [], [], **nothing_for_others(decision))

    @pytest.mark.parametrize(
        "change",
        [
            {"stamp": 901},
            {"turn": 4},
            {"kind": EventKind.RUN_TERMINATED},
            {"activity_id": "1:other"},
            {"payload": b"[]"},
        ],
        ids=str,
    )
    def test_another_event_in_its_place_is_not_its_own(self, change: dict[str, object]) -> None:
        recorded = self.recorded._replace(**change)  # type: ignore[arg-type]
        (answer,) = decided([entry(1, DONE)], [row(next_seq=3)], {1: [recorded]}).answers
        assert isinstance(answer, Rejected)

    def test_part_of_an_entry_is_not_the_entry(self) -> None:
        (answer,) = decided([entry(1, DONE, DONE)], [row(next_seq=3)], {1: [self.recorded]}).answers
        assert isinstance(answer, Rejected)

    def test_entry_of_sends_alone_is_recognised_by_its_first_outcome(self) -> None:
        outcome = Event(2, 4, 900, EventKind.MESSAGE_SENT, "2:send", b"2")
        batch = [entry(1, requests=[send(2)])]
        assert decided(batch, [row(next_seq=3)], {1: [outcome]}).answers == [Accepted([outcome])]
        another = outcome._replace(stamp=901)
        assert isinstance(decided(batch, [row(next_seq=3)], {1: [another]}).answers[0], Rejected)

    def test_another_execution_is_not_its_own_whatever_is_recorded(self) -> None:
        (answer,) = decided([entry(1, DONE)], [row(execution_id=51)], {1: [self.recorded]}).answers
        assert isinstance(answer, Rejected)

    def test_freeing_without_events_is_recognised_until_another_owns_the_instance(self) -> None:
        freeing = entry(1, is_freed=True, wake_at=None)
        assert decided([freeing], [row(session=None)]).answers == [Accepted([])]
        for another in (row(session=8), row(session=None, next_seq=3), row(session=None, run=1)):
            (answer,) = decided([freeing], [another]).answers
            assert isinstance(answer, Rejected)


class TestSends:
    def test_outcomes_follow_the_notes_as_the_next_turn(self) -> None:
        decision = decided(
            [entry(1, DONE, requests=[send(2, "2:s"), send(3, "3:s"), send(4, "4:s")])],
            [row(1), row(2), row(3, status=Status.FAILED, session=None)],
        )
        sent = [
            Event(3, 4, 900, EventKind.MESSAGE_SENT, "2:s", b"0"),
            Event(4, 4, 900, EventKind.MESSAGE_SENT, "3:s", b"1"),
            Event(5, 4, 900, EventKind.MESSAGE_SENT, "4:s", b"2"),
        ]
        assert decision.answers == [Accepted(sent, recipients=(2,))]
        assert decision.events[1:] == [HistoryRow(1, 0, *event) for event in sent]
        assert decision.advances == [Advance(next_seq=6, drained_seq=3, recoveries=0, key=1)]
        assert decision.messages == [
            MessageRow(2, 1, InboxKind.MESSAGE, "replies", "message-2:s", "id-1", b'"hello"', NOW)
        ]
        assert decision.reaches == [Reach(inbox_seq=1, wake_at=5, key=2)]

    def test_a_target_whose_row_is_missing_is_not_found(self) -> None:
        decision = decide(SESSION, [entry(1, requests=[send(2)])], {1: row()}, {"id-2": 2}, recorded={}, now=NOW)
        assert [e.payload for a in decision.answers if isinstance(a, Accepted) for e in a.outcomes] == [b"2"]

    def test_recipients_are_named_once_and_without_the_sender(self) -> None:
        batch = [entry(1, requests=[send(2, "1:s"), send(1, "2:s"), send(2, "3:s")])]
        (answer,) = decided(batch, [row(1), row(2)]).answers
        assert isinstance(answer, Accepted)
        assert (answer.recipients, answer.mailed) == ((2,), True)

    def test_an_instance_has_one_update_though_it_is_sender_and_target(self) -> None:
        decision = decided([entry(1, DONE, requests=[send(2)]), entry(2, DONE, requests=[send(1)])], [row(1), row(2)])
        assert (decision.advances, decision.reaches) == ([], [])
        assert [(s.key, s.inbox_seq, s.next_seq) for s in decision.settlements] == [(1, 1, 4), (2, 1, 4)]

    @pytest.mark.parametrize(
        ("status", "wake_at", "kind", "expected"),
        [
            (Status.RUNNING, None, InboxKind.MESSAGE, NOW),
            (Status.RUNNING, NOW + 1, InboxKind.MESSAGE, NOW),
            (Status.RUNNING, NOW - 1, InboxKind.MESSAGE, NOW - 1),
            (Status.BLOCKED, None, InboxKind.CANCEL, NOW),
            (Status.PENDING, NOW + 1, InboxKind.MESSAGE, NOW + 1),
            (Status.PENDING, NOW - 1, InboxKind.MESSAGE, NOW - 1),
            (Status.PENDING, NOW + 1, InboxKind.CANCEL, NOW),
        ],
    )
    def test_mail_makes_due(self, status: Status, wake_at: int | None, kind: InboxKind, expected: int | None) -> None:
        assert wake_for_mail(status, wake_at, NOW, kind) == expected


class TestParking:
    @pytest.mark.parametrize("wake_at", [None, NOW + 1, NOW - 1])
    def test_parks_as_asked_without_mail(self, wake_at: int | None) -> None:
        found = settlement(entry(1, DONE, wake_at=wake_at, waiting_on=b"[]"), row())
        assert (found.wake_at, found.waiting_on, found.session) == (wake_at, b"[]", SESSION)

    @pytest.mark.parametrize(("wake_at", "expected"), [(None, NOW), (NOW + 1, NOW), (NOW - 1, NOW - 1)])
    def test_stays_due_with_mail(self, wake_at: int | None, expected: int) -> None:
        decision = decided([entry(1, DONE, wake_at=wake_at)], [row(inbox_seq=1)])
        assert [s.wake_at for s in decision.settlements] == [expected]
        assert decision.answers == [Accepted([], mailed=True)]

    def test_mail_that_the_owner_has_seen_does_not_count(self) -> None:
        found = settlement(entry(1, DONE, wake_at=None, inbox_seen=1), row(inbox_seq=1))
        assert (found.wake_at, found.inbox_seen) == (None, 1)

    def test_what_was_seen_is_never_unseen(self) -> None:
        found = settlement(entry(1, wake_at=None, inbox_seen=1), row(inbox_seq=3, inbox_seen=3))
        assert (found.inbox_seen, found.wake_at) == (3, None)

    def test_leaves_wake_at_with_mail_while_owned(self) -> None:
        decision = decided([entry(1, DONE)], [row(inbox_seq=1)])
        assert (decision.settlements, len(decision.advances)) == ([], 1)
        assert decision.answers == [Accepted([], mailed=True)]

    def test_freed_with_mail_is_due_though_wake_at_is_left(self) -> None:
        found = settlement(entry(1, DONE, is_freed=True), row(inbox_seq=1, wake_at=None))
        assert (found.wake_at, found.session) == (NOW, None)

    def test_freed_without_mail_sleeps_on(self) -> None:
        found = settlement(entry(1, DONE, is_freed=True), row(wake_at=NOW + 1))
        assert (found.wake_at, found.session, found.is_waiting_on_written) == (NOW + 1, None, False)

    @pytest.mark.parametrize("wake_at", [NOW + 1, NOW - 1])
    def test_blocked_is_due_for_another_build(self, wake_at: int) -> None:
        found = settlement(entry(1, DONE, status=Status.BLOCKED, wake_at=wake_at, reason=b"why", build="b"), row())
        assert (found.wake_at, found.reason, found.build) == (wake_at, b"why", "b")

    def test_closed_is_never_due(self) -> None:
        for wake_at in (LEAVE, None, NOW):
            closing = entry(1, status=Status.FAILED, wake_at=wake_at)
            assert parked_until(closing, 5, NOW, is_mailed=True) is None

    def test_message_of_the_same_batch_counts_whatever_the_order(self) -> None:
        parking, sending = entry(1, DONE, wake_at=None), entry(2, requests=[send(1)])
        for batch in ([parking, sending], [sending, parking]):
            decision = decided(batch, [row(1), row(2)])
            assert [(s.key, s.wake_at) for s in decision.settlements] == [(1, NOW)]
            assert [a.mailed for a in decision.answers if isinstance(a, Accepted)] in (
                [True, False],
                [False, True],
            )


class TestEnds:
    def test_closing_gives_up_everything(self) -> None:
        closing = entry(1, DONE, CLOSED, status=Status.COMPLETED, wake_at=None, waiting_on=b"[]", consumed=[4, 5])
        decision = decided([closing], [row(inbox_seq=9, wake_at=5)])
        assert decision.settlements == [
            Settlement(
                session=None,
                status=Status.COMPLETED,
                next_seq=4,
                drained_seq=4,
                wake_at=None,
                inbox_seq=9,
                inbox_seen=0,
                recoveries=0,
                is_waiting_on_written=True,
                waiting_on=None,
                reason=None,
                build=None,
                closed_at=900,
                key=1,
            )
        ]
        assert decision.consumed == [(1, 4), (1, 5)]
        assert decision.answers == [Accepted([])]

    def test_recur_opens_the_next_run(self) -> None:
        recurring = entry(1, Note(EventKind.RUN_RECURRED, None, b""), next_run=NextRun("order", "2", b"[2]"))
        decision = decided([recurring], [row()])
        assert [(event.run, event.seq) for event in decision.events] == [(0, 2)]
        assert decision.openings == [Opening(1, "order", "2", b"[2]", 900, 1)]
        assert decision.advances == [Advance(next_seq=0, drained_seq=0, recoveries=0, key=1)]

    def test_undrained_notes_and_outcomes_stay_to_be_computed(self) -> None:
        blocking = entry(1, DONE, DONE, undrained=2, status=Status.BLOCKED, wake_at=NOW, requests=[send(9)])
        found = settlement(blocking, row())
        assert (found.next_seq, found.drained_seq) == (5, 2)
