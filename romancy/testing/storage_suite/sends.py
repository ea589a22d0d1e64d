"""Sends within entries, and how they meet the parking of their targets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from romancy.core.events import EventKind, SendOutcome
from romancy.core.records import LEAVE, Accepted, InboxItem, InboxKind, NextRun, PostResult, Publication, Status
from romancy.testing.storage_suite.making import CLOSING, MINUTE, NEVER, RECURRING, Worker, about, note, post, send
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock

PARKING: dict[str, dict[str, object]] = {
    "hot": {"wake_at": None},
    "hot until later": {"wake_at": NEVER},
    "cold": {"wake_at": None, "is_freed": True},
    "cold until later": {"wake_at": NEVER, "is_freed": True},
    "freed as it is": {"wake_at": LEAVE, "is_freed": True},
}


class SendsSuite(Suite):
    """A send is committed with its sender's turn, and no parking run sleeps through it."""

    async def test_send_reaches_the_inbox(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        target = await worker.own("target")
        sender = await worker.own("sender")
        clock.advance(MINUTE)
        answer = await worker.accepted(worker.entry(sender, requests=[send("target")]))
        assert answer.recipients == (target.key,)
        (mail,) = await storage.mail(worker.session)
        assert (mail.key, mail.execution_id, mail.inbox_seq) == (target.key, target.execution_id, 1)
        assert mail.items == [
            InboxItem(
                seq=1,
                kind=InboxKind.MESSAGE,
                channel="replies",
                message_id="target/2:send",
                sender="sender",
                body=b'"hello"',
                at=mail.items[0].at,
            )
        ]
        assert mail.items[0].at == about(clock.now())

    async def test_send_outcomes_are_recorded_after_the_notes_and_not_drained(
        self, worker: Worker, storage: Storage
    ) -> None:
        closed = await worker.close(await worker.own("closed"))
        await worker.own("open")
        sender = await worker.own("sender")
        entry = worker.entry(
            sender,
            note(),
            turn=4,
            requests=[
                send("open", activity_id="2:s"),
                send("closed", activity_id="3:s"),
                send("nobody", activity_id="4:s"),
            ],
        )
        answer = await worker.accepted(entry)
        assert [(e.seq, e.turn, e.stamp, e.activity_id, e.payload) for e in answer.outcomes] == [
            (1, 5, entry.stamp, "2:s", b"0"),
            (2, 5, entry.stamp, "3:s", b"1"),
            (3, 5, entry.stamp, "4:s", b"2"),
        ]
        assert {e.kind for e in answer.outcomes} == {EventKind.MESSAGE_SENT}
        assert (await storage.history(sender.key))[1:] == answer.outcomes
        after = await worker.read("sender")
        assert (after.next_seq, after.drained_seq) == (4, 1)
        assert (await worker.read("closed")).inbox_seq == closed.inbox_seq

    async def test_send_follows_undrained_notes(self, worker: Worker) -> None:
        sender = await worker.own()
        after = await worker.advance(sender, note("1:a"), note("2:b"), undrained=1, requests=[send("nobody")])
        assert (after.next_seq, after.drained_seq) == (3, 1)

    async def test_send_to_itself_is_mail(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("self")
        answer = await worker.accepted(worker.entry(owned, note(), wake_at=None, requests=[send("self")]))
        assert ([e.payload for e in answer.outcomes], answer.mailed, answer.recipients) == ([b"0"], True, ())
        after = await worker.read("self")
        assert (after.inbox_seq, after.inbox_seen, after.wake_at) == (1, 0, about(worker.clock.now()))
        (mail,) = await storage.mail(worker.session)
        assert mail.items[0].sender == "self"

    async def test_send_to_itself_from_a_closing_run_is_sent(self, worker: Worker) -> None:
        owned = await worker.own("self")
        entry = worker.entry(owned, CLOSING, status=Status.COMPLETED, wake_at=None, requests=[send("self")])
        answer = await worker.accepted(entry)
        assert ([e.payload for e in answer.outcomes], answer.mailed) == ([b"0"], False)
        assert (await worker.read("self")).wake_at is None

    async def test_send_to_itself_from_a_recurring_run_reaches_the_next(self, worker: Worker) -> None:
        owned = await worker.own("self")
        entry = worker.entry(
            owned, RECURRING, next_run=NextRun("order", "1", b""), requests=[send("self")], is_freed=True
        )
        await worker.accepted(entry)
        (claim,) = await worker.claim_all()
        assert (claim.instance.run, len(claim.inbox), claim.history) == (1, 1, [])

    async def test_sends_cross_in_one_batch(self, worker: Worker, storage: Storage) -> None:
        one, other = await worker.own("one"), await worker.own("other")
        answers = await worker.commit(
            worker.entry(one, wake_at=None, requests=[send("other")]),
            worker.entry(other, wake_at=None, requests=[send("one")]),
        )
        assert all(isinstance(a, Accepted) and a.mailed for a in answers)
        assert [a.recipients for a in answers if isinstance(a, Accepted)] == [(other.key,), (one.key,)]
        for id in ("one", "other"):
            after = await worker.read(id)
            assert (after.inbox_seq, after.wake_at, after.next_seq) == (1, about(worker.clock.now()), 1)
        assert len(await storage.mail(worker.session)) == 2

    async def test_several_sends_to_one_target_are_numbered_in_order(self, worker: Worker, storage: Storage) -> None:
        target = await worker.own("target")
        one, other = await worker.own(), await worker.own()
        await worker.commit(
            worker.entry(one, requests=[send("target", activity_id="1:a"), send("target", activity_id="2:b")]),
            worker.entry(other, requests=[send("target", activity_id="3:c")]),
        )
        (mail,) = await storage.mail(worker.session)
        assert [(i.seq, i.message_id) for i in mail.items] == [
            (1, "target/1:a"),
            (2, "target/2:b"),
            (3, "target/3:c"),
        ]
        assert (mail.key, mail.inbox_seq) == (target.key, 3)

    async def test_send_after_a_closing_of_the_same_batch_finds_it_closed(self, worker: Worker) -> None:
        target, sender = await worker.own("target"), await worker.own()
        answers = await worker.commit(
            worker.entry(target, CLOSING, status=Status.COMPLETED, wake_at=None),
            worker.entry(sender, requests=[send("target")]),
        )
        assert [[e.payload for e in a.outcomes] for a in answers if isinstance(a, Accepted)] == [[], [b"1"]]

    async def test_send_before_a_closing_of_the_same_batch_is_sent(self, worker: Worker) -> None:
        target, sender = await worker.own("target"), await worker.own()
        answers = await worker.commit(
            worker.entry(sender, requests=[send("target")]),
            worker.entry(target, CLOSING, status=Status.COMPLETED, wake_at=None),
        )
        assert [[e.payload for e in a.outcomes] for a in answers if isinstance(a, Accepted)] == [[b"0"], []]
        after = await worker.read("target")
        assert (after.status, after.session, after.wake_at) == (Status.COMPLETED, None, None)

    async def test_send_of_a_rejected_entry_reaches_nobody(self, worker: Worker) -> None:
        target, sender = await worker.own("target"), await worker.own()
        await worker.commit(worker.entry(sender, seq=5, requests=[send("target")]))
        assert await worker.read("target") == target

    async def test_send_that_reaches_nobody_leaves_its_channel_undecided(
        self, worker: Worker, storage: Storage
    ) -> None:
        await worker.close(await worker.own("closed"))
        sends = [send("closed", activity_id="1:send"), send("nobody", activity_id="2:send")]
        answer = await worker.accepted(worker.entry(await worker.own(), requests=sends))
        expected = [b"%d" % outcome for outcome in (SendOutcome.CLOSED, SendOutcome.NOT_FOUND)]
        assert [outcome.payload for outcome in answer.outcomes] == expected
        assert await storage.publish([Publication("replies", b"1", "m")]) == [PostResult.POSTED]

    async def test_send_makes_a_cold_target_claimable(self, worker: Worker) -> None:
        cold = await worker.advance(await worker.own("cold"), note(), wake_at=None, is_freed=True)
        assert await worker.claim_all() == []
        sender = await worker.own()
        await worker.advance(sender, requests=[send("cold")])
        (claim,) = await worker.claim_all()
        assert (claim.instance.key, len(claim.inbox)) == (cold.key, 1)

    async def test_send_does_not_cost_a_due_target_its_place(self, worker: Worker, clock: AdjustableClock) -> None:
        due = await worker.create("due")
        sender = await worker.own()
        clock.advance(5 * MINUTE)
        await worker.advance(sender, requests=[send(due.id)])
        assert (await worker.read("due")).wake_at == due.wake_at

    async def test_send_does_not_start_a_pending_target_early(self, worker: Worker, clock: AdjustableClock) -> None:
        later = worker.at(1)
        await worker.create("later", wake_at=later)
        await worker.advance(await worker.own(), requests=[send("later")])
        after = await worker.read("later")
        assert (after.inbox_seq, after.wake_at, after.status) == (1, later, Status.PENDING)

    @pytest.mark.parametrize("parking", PARKING)
    @pytest.mark.parametrize("moment", ["before the look", "after the look", "same batch", "after"])
    @pytest.mark.parametrize("first", [True, False])
    async def test_message_makes_a_parking_run_claimable(
        self, worker: Worker, storage: Storage, parking: str, moment: str, first: bool
    ) -> None:
        """A message arrives somewhere between the owner's look into the inbox and its parking."""
        owned = await worker.advance(await worker.own("target"), wake_at=None)
        sender = await worker.own()
        sending = worker.entry(sender, requests=[send("target")])
        if moment == "before the look":
            await worker.accepted(sending)
        seen = max([mail.inbox_seq for mail in await storage.mail(worker.session)], default=0)
        if moment == "after the look":
            await worker.accepted(sending)
        parked = worker.entry(owned, note(), inbox_seen=seen, **PARKING[parking])
        if moment == "same batch":
            await worker.commit(*((sending, parked) if first else (parked, sending)))
        else:
            answer = await worker.accepted(parked)
            assert answer.mailed == (moment == "after the look")
        if moment == "after":
            await worker.accepted(sending)
        after = await worker.read("target")
        if moment == "before the look" and parking != "freed as it is":
            assert after.wake_at == PARKING[parking]["wake_at"]
        else:
            assert after.wake_at == about(worker.clock.now())
        if moment != "before the look":
            assert after.inbox_seq > after.inbox_seen
            # The owner hears of it by polling; a new owner gets it with the claim.
            if after.session is None:
                (claim,) = await worker.claim_all()
                assert [item.seq for item in claim.inbox] == [1]
            else:
                (mail,) = await storage.mail(worker.session)
                assert [item.seq for item in mail.items] == [1]

    @pytest.mark.parametrize("order", sorted({"".join(o) for o in itertools.permutations("PSL")}), ids=str)
    async def test_post_is_never_overlooked(self, worker: Worker, storage: Storage, order: str) -> None:
        """P: somebody posts. L: the owner looks into its inbox. S: it parks and frees, and lets the instance sleep."""
        owned = await worker.own("target")
        seen = 0
        for act in order:
            match act:
                case "P":
                    await storage.post([post("target")])
                case "L":
                    seen = max([mail.inbox_seq for mail in await storage.mail(worker.session)], default=seen)
                case _:
                    await worker.accepted(worker.entry(owned, note(), inbox_seen=seen, wake_at=None, is_freed=True))
        was_seen = "P" in order[: order.index("L")] and order.index("L") < order.index("S")
        claims = await worker.claim_all()
        assert len(claims) == (0 if was_seen else 1)

    async def test_consumed_rows_leave_the_inbox(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("target")
        for _ in range(3):
            await storage.post([post("target")])
        await worker.accepted(worker.entry(owned, note(), consumed=[1, 3], inbox_seen=3, is_freed=True))
        (claim,) = await worker.claim_all()
        assert [item.seq for item in claim.inbox] == [2]

    async def test_seen_messages_that_stay_wake_nobody(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("target")
        await storage.post([post("target")])
        answer = await worker.accepted(worker.entry(owned, inbox_seen=1, wake_at=None))
        assert not answer.mailed
        assert await storage.mail(worker.session) == []
        assert (await worker.read("target")).wake_at is None
        answer = await worker.accepted(worker.entry(owned, note(), inbox_seen=1, wake_at=None, is_freed=True))
        assert not answer.mailed
        assert await worker.claim_all() == []

    async def test_ordinary_turn_says_that_mail_has_come(self, worker: Worker, storage: Storage) -> None:
        owned, other = await worker.own("target"), await worker.own()
        await storage.post([post("target")])
        answers = await worker.commit(worker.entry(owned, note()), worker.entry(other, note()))
        assert answers == [Accepted([], mailed=True), Accepted([])]
