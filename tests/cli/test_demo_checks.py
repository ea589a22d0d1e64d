"""The checks of the demo find what they look for: each test tampers with good evidence."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest
from rich.console import Console

from romancy import HistoryEvent
from romancy.cli.demo.checks import check
from romancy.cli.demo.evidence import Evidence, Kill, count
from romancy.cli.demo.ledger import Line, What
from romancy.cli.demo.orders import Order
from romancy.cli.demo.report import as_json, make_report, print_report

GOOD, BAD = "order-1", "order-2"
DOOMED, NEXT = 111, 222


def line(what: What, instance: str, activity: str, value: str = "", pid: int = DOOMED) -> Line:
    return Line(
        what=what,
        instance=instance,
        activity=activity,
        attempt=1,
        key=f"{instance}/{activity}",
        pid=pid,
        at=0.0,
        item="kettle",
        value=value if what == "done" else "",
    )


def body(instance: str, activity: str, value: str, pid: int = NEXT) -> list[Line]:
    return [line("began", instance, activity, pid=pid), line("done", instance, activity, value, pid)]


def history(*events: tuple[str, str | None, object]) -> list[HistoryEvent]:
    return [
        HistoryEvent(
            seq=seq,
            turn=seq + 1,
            at=datetime(2026, 1, 1, tzinfo=UTC),
            kind=kind,
            activity_id=activity,
            payload=json.dumps(payload),
        )
        for seq, (kind, activity, payload) in enumerate(events)
    ]


def make_evidence() -> Evidence:
    """Return evidence of two orders, one shipped, one taken back; the kill made a charge run twice."""
    before = [
        *body(GOOD, "1:reserve", "R1", DOOMED),
        *body(GOOD, "2:charge", "lost", DOOMED),
        line("began", BAD, "1:reserve"),
    ]
    after = [
        *body(GOOD, "2:charge", "P1"),
        *body(BAD, "1:reserve", "R2"),
        *body(BAD, "2:charge", "P2"),
        *body(GOOD, "4:ship", "S1"),
        *body(BAD, "undo.1:refund", "P2"),
        *body(BAD, "undo.2:release", "R2"),
    ]
    refused = {"type": "romancy.cli.demo.workflow:OrderRejectedError", "message": "order 2 was refused"}
    return Evidence(
        orders=[
            Order(id=1, customer="A", item="kettle", quantity=1, amount=Decimal(1), approval="granted"),
            Order(id=2, customer="B", item="kettle", quantity=1, amount=Decimal(1), approval="refused"),
        ],
        statuses={GOOD: "completed", BAD: "failed"},
        reasons={},
        histories={
            GOOD: history(
                ("activity_completed", "1:reserve", {"id": "R1"}),
                ("activity_completed", "2:charge", {"id": "P1"}),
                ("message_received", "3:approvals", {}),
                ("activity_completed", "4:ship", {"id": "S1", "payment": "P1"}),
                ("run_completed", None, {"id": "S1", "payment": "P1"}),
            ),
            BAD: history(
                ("activity_completed", "1:reserve", {"id": "R2"}),
                ("activity_retried", "2:charge", {}),
                ("activity_completed", "2:charge", {"id": "P2"}),
                ("message_received", "3:approvals", {}),
                ("activity_completed", "undo.1:refund", None),
                ("activity_completed", "undo.2:release", None),
                ("run_failed", None, refused),
            ),
        },
        ledger=before + after,
        kills=[Kill(DOOMED, ended=0, under_way=1, lines=len(before), recorded=frozenset({(GOOD, "1:reserve")}))],
        kills_wanted=1,
        seconds=1.0,
    )


def failing(evidence: Evidence) -> dict[str, list[str]]:
    return {found.name: found.problems for found in check(evidence) if not found.is_ok}


def test_good_evidence_passes_every_check_and_is_counted() -> None:
    evidence = make_evidence()
    assert failing(evidence) == {}
    numbers = msgspec.structs.asdict(count(evidence))
    assert numbers == {
        "orders": 2,
        "completed": 1,
        "rejected": 1,
        "activities": 7,
        "retried": 1,
        "cut_short": 1,
        "ran_twice": 1,
    }


def test_body_that_begins_after_its_recorded_result_is_found() -> None:
    evidence = make_evidence()
    evidence.ledger.append(line("began", BAD, "2:charge", pid=NEXT))
    assert list(failing(evidence)) == ["never_again"]


def test_body_that_was_recorded_before_a_kill_and_begins_after_it_is_found() -> None:
    evidence = make_evidence()
    evidence.ledger.append(line("began", GOOD, "1:reserve", pid=NEXT))
    problems = failing(evidence)["never_again"]
    assert problems[0] == f"1:reserve of {GOOD} was recorded before {DOOMED} died, and began in {NEXT}"


@pytest.mark.parametrize("activity", ["undo.1:refund", "undo.2:release"])
def test_compensation_that_did_not_run_is_found(activity: str) -> None:
    evidence = make_evidence()
    evidence.ledger[:] = [found for found in evidence.ledger if found.activity != activity]
    assert "taken_back" in failing(evidence)


def test_compensation_of_another_value_than_the_recorded_one_is_found() -> None:
    evidence = make_evidence()
    evidence.ledger[:] = [
        msgspec.structs.replace(found, value="lost") if found.name == "refund" and found.value else found
        for found in evidence.ledger
    ]
    assert list(failing(evidence)) == ["taken_back"]


def test_compensations_in_the_wrong_order_are_found() -> None:
    evidence = make_evidence()
    evidence.ledger[:] = evidence.ledger[:-4] + evidence.ledger[-2:] + evidence.ledger[-4:-2]
    assert list(failing(evidence)) == ["taken_back"]


def test_completed_order_that_was_taken_back_is_found() -> None:
    evidence = make_evidence()
    evidence.ledger.extend(body(GOOD, "undo.1:refund", "P1"))
    assert "taken_back" in failing(evidence)


def test_effect_that_is_not_recorded_is_found() -> None:
    evidence = make_evidence()
    evidence.ledger.extend(body(GOOD, "5:ship", "S2"))
    assert list(failing(evidence)) == ["true"]


def test_recorded_result_that_no_body_gave_is_found() -> None:
    evidence = make_evidence()
    evidence.histories[GOOD][3:4] = history(("activity_completed", "4:ship", {"id": "forged"}))
    assert list(failing(evidence)) == ["true"]


def test_result_that_is_recorded_twice_is_found() -> None:
    evidence = make_evidence()
    evidence.histories[GOOD].insert(1, evidence.histories[GOOD][0])
    assert "true" in failing(evidence)


def test_order_that_has_not_ended_is_found_with_its_reason() -> None:
    evidence = make_evidence()
    evidence.statuses[GOOD] = "blocked"
    evidence.reasons[GOOD] = "the code has changed"
    assert failing(evidence)["ended"] == [f"{GOOD} is blocked (the code has changed)"]


def test_order_that_failed_by_itself_is_found() -> None:
    evidence = make_evidence()
    evidence.histories[BAD][-1:] = history(("run_failed", None, {"type": "m:Bug", "message": "oops"}))
    assert failing(evidence)["ended"] == [f"{BAD} is failed (m:Bug: oops)"]


def test_kill_that_hit_an_idle_process_or_did_not_come_is_found() -> None:
    evidence = make_evidence()
    idle = msgspec.structs.replace(evidence.kills[0], under_way=0)
    assert list(failing(msgspec.structs.replace(evidence, kills=[idle]))) == ["killed"]
    assert list(failing(msgspec.structs.replace(evidence, kills=[]))) == ["killed"]


def test_repeated_body_with_another_idempotency_key_is_found() -> None:
    evidence = make_evidence()
    evidence.ledger[2:4] = [msgspec.structs.replace(found, key="other") for found in evidence.ledger[2:4]]
    assert list(failing(evidence)) == ["keys"]


def test_key_that_two_activities_share_is_found() -> None:
    evidence = make_evidence()
    evidence.ledger[:] = [msgspec.structs.replace(found, key="same") for found in evidence.ledger]
    assert list(failing(evidence)) == ["keys"]


def test_report_tells_what_is_wrong_to_people_and_to_programs() -> None:
    evidence = make_evidence()
    evidence.statuses[GOOD] = "running"
    report = make_report(evidence, seed=7, directory="/tmp/somewhere")  # noqa: S108 - not touched
    assert not report.is_ok
    assert json.loads(as_json(report))["checks"]["ended"] == {"ok": False, "problems": [f"{GOOD} is running"]}
    screen = io.StringIO()
    print_report(report, Console(file=screen, force_terminal=True, width=80, color_system=None))
    told = screen.getvalue()
    assert f"ended: {GOOD} is running" in told
    assert "/tmp/somewhere" in told  # noqa: S108 - likewise
    assert told.count("✗") == 1
