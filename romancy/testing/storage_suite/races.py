"""Two or more processes that want the same at once."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from romancy.core.records import Accepted, Creation, PostResult, Publication, Status
from romancy.errors import (
    InstanceAlreadyExistsError,
    InstanceRunningError,
    RomancyError,
    SessionLostError,
    StorageError,
)
from romancy.testing.storage_suite.children import ABANDON, child
from romancy.testing.storage_suite.making import CLOSING, Worker, note, outlive, payloads, post, send
from romancy.testing.storage_suite.suite import OpenStorage, Suite
from romancy.testing.storage_suite.topics import BROADCAST, COMPETING, publish, subscribed, unread, wait
from romancy.testing.storage_suite.transactions import Body, make_table

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

ROUNDS = 15
"""How often a race is run: whichever comes first, the outcome must be whole."""


async def race(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Make calls at once, begun in any order.

    Returns:
        What each has returned, or raised of what romancy raises on purpose, in the order of the arguments. That a back
        end can't go on (a deadlock that it has not kept to itself) is none of that.
    """
    in_any_order = random.sample(list(enumerate(calls)), len(calls))
    tasks = {number: asyncio.ensure_future(call) for number, call in in_any_order}
    results = await asyncio.gather(*(tasks[n] for n in range(len(calls))), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, RomancyError):
            raise result
        if isinstance(result, StorageError) and not isinstance(result, SessionLostError):
            raise result
    return results


async def hand_out_at_once(crowd: list[Worker], limit: int) -> None:
    """Have all hand out, a little at a time, until nobody finds more."""
    for _ in range(100):
        found = await race(*(worker.storage.hand_out(limit=limit) for worker in crowd))
        if not any(out.has_more for out in found):
            return
    raise AssertionError("handing out does not come to an end")


class RacesSuite(Suite):
    """Of many that want the same, one gets it; what two do to each other comes out as if one had been first."""

    async def test_one_of_many_sessions_claims_an_instance(self, crowd: list[Worker]) -> None:
        for _ in range(ROUNDS):
            created = await crowd[0].create()
            found = await race(*(worker.claim() for worker in crowd))
            winners = [(worker, claim) for worker, claims in zip(crowd, found, strict=True) for claim in claims.claims]
            ((winner, claim),) = winners
            assert (claim.instance.key, claim.instance.session) == (created.key, winner.session)
            await winner.close(claim.instance)

    async def test_many_sessions_share_what_is_due(self, crowd: list[Worker]) -> None:
        created = [(await crowd[0].create()).key for _ in range(100)]
        keys: list[int] = []
        while len(keys) < len(created):
            found = await race(*(worker.claim(limit=3) for worker in crowd))
            assert any(claims.claims for claims in found)
            for worker, claims in zip(crowd, found, strict=True):
                assert all(claim.instance.session == worker.session for claim in claims.claims)
                keys += [claim.instance.key for claim in claims.claims]
        assert sorted(keys) == sorted(created)

    async def test_worker_takes_what_another_has_freed(self, workers: tuple[Worker, Worker]) -> None:
        one, other = workers
        owned = await one.own()
        assert (await other.claim()).claims == []
        await one.advance(owned, note(), is_freed=True)
        (taken,) = (await other.claim()).claims
        assert [event.activity_id for event in taken.history] == ["1:charge"]

    async def test_one_of_ten_starters_starts(self, crowd: list[Worker]) -> None:
        for number in range(ROUNDS):
            found = await race(*(worker.storage.create(worker.new(f"x{number}")) for worker in crowd))
            (created,) = [creation for creation in found if isinstance(creation, Creation)]
            assert created.is_new
            assert sum(isinstance(error, InstanceAlreadyExistsError) for error in found) == len(crowd) - 1
            assert (await crowd[0].read(f"x{number}")).key == created.instance.key

    async def test_ten_starters_attach_to_one_instance(self, crowd: list[Worker]) -> None:
        for number in range(ROUNDS):
            found = await race(*(worker.storage.create(worker.new(f"x{number}"), "attach") for worker in crowd))
            assert sorted(creation.is_new for creation in found) == [False] * (len(crowd) - 1) + [True]
            assert len({creation.instance.key for creation in found}) == 1

    async def test_one_of_ten_starters_restarts(self, crowd: list[Worker]) -> None:
        one = crowd[0]
        for number in range(ROUNDS):
            closed = await one.close(await one.own(f"x{number}"))
            found = await race(*(worker.storage.create(worker.new(closed.id), "restart") for worker in crowd))
            (created,) = [creation for creation in found if isinstance(creation, Creation)]
            assert created.instance.key != closed.key
            assert sum(isinstance(error, InstanceRunningError) for error in found) == len(crowd) - 1
            await one.storage.terminate(closed.id, b"{}")

    async def test_start_that_races_with_its_own_repetition_is_one(self, crowd: list[Worker]) -> None:
        for number in range(ROUNDS):
            new = crowd[0].new(f"x{number}")
            found = await race(*(worker.storage.create(new) for worker in crowd))
            assert all(creation.is_new for creation in found)
            assert len({creation.instance.key for creation in found}) == 1

    @pytest.mark.parametrize("is_topic", [False, True])
    async def test_message_that_races_with_its_own_repetition_is_one(
        self, crowd: list[Worker], is_topic: bool, database: Database
    ) -> None:
        await crowd[0].own("x")
        for number in range(ROUNDS):
            item, publication = post("x", f"m{number}"), Publication("news", b"1", f"m{number}")
            found = await race(
                *(w.storage.publish([publication]) if is_topic else w.storage.post([item]) for w in crowd)
            )
            assert sorted(result for (result,) in found) == [PostResult.POSTED] + [PostResult.DUPLICATE] * 9
        assert await database.count("topics" if is_topic else "messages") == ROUNDS

    async def test_batches_that_send_to_each_other_s_instances_in_opposite_orders(
        self, workers: tuple[Worker, Worker]
    ) -> None:
        one, other = workers
        mine = [await one.own(f"a{number}") for number in range(8)]
        theirs = [await other.own(f"b{number}") for number in range(8)]
        for _ in range(ROUNDS):
            batches = (
                [
                    worker.entry(instance, requests=[send(target.id, activity_id=f"{instance.next_seq}:s")])
                    for instance, target in zip(instances, targets, strict=True)
                ]
                for worker, instances, targets in ((one, mine, theirs), (other, theirs[::-1], mine[::-1]))
            )
            answers = await race(*(w.commit(*batch) for w, batch in zip(workers, batches, strict=True)))
            assert [payloads(answer) for batch in answers for answer in batch] == [[b"0"]] * 16
            mine, theirs = [[await one.read(i.id) for i in group] for group in (mine, theirs)]
        for worker in workers:
            mails = await worker.storage.mail(worker.session)
            assert [[item.seq for item in mail.items] for mail in mails] == [list(range(1, ROUNDS + 1))] * 8

    async def test_batches_that_start_the_same_children_in_opposite_orders(
        self, workers: tuple[Worker, Worker]
    ) -> None:
        one, other = workers
        for number in range(ROUNDS):
            parents = [(worker, await worker.own(f"p{number}.{n}")) for n, worker in enumerate(workers)]
            ids = [f"k{number}.{n}" for n in range(5)]
            requests = [
                [child(id, ABANDON, activity_id=f"{n}:c") for n, id in enumerate(order)] for order in (ids, ids[::-1])
            ]
            answers = await race(
                *(w.commit(w.entry(parent, requests=r)) for (w, parent), r in zip(parents, requests, strict=True))
            )
            (first,), (second,) = answers
            for a, b in zip(payloads(first), payloads(second)[::-1], strict=True):
                assert sorted([a or b"", b or b""]) == [b"0", b"1"]
            assert [await one.storage.get(id) is not None for id in ids] == [True] * 5
            for claim in await other.claim_all():
                await other.close(claim.instance)

    async def test_post_does_not_miss_an_instance_that_is_being_parked(self, workers: tuple[Worker, Worker]) -> None:
        one, other = workers
        for number in range(ROUNDS):
            owned = await one.own(f"x{number}")
            parking = one.entry(owned, note(), wake_at=None, is_freed=True)
            await race(one.accepted(parking), other.storage.post([post(owned.id)]))
            (claim,) = await other.claim_all()
            assert (claim.instance.key, len(claim.inbox)) == (owned.key, 1)
            await other.close(claim.instance)

    async def test_post_reaches_whoever_is_claiming(self, workers: tuple[Worker, Worker]) -> None:
        one, other = workers
        for number in range(ROUNDS):
            created = await one.create(f"x{number}")
            found, _ = await race(one.claim(), other.storage.post([post(created.id)]))
            (claim,) = found.claims or await one.claim_all()  # a claim may pass over what is being written to
            mail = await one.storage.mail(one.session)
            assert len(claim.inbox) + sum(len(it.items) for it in mail) == 1
            await one.close(claim.instance)

    async def test_send_to_an_instance_that_is_being_closed_tells_what_became_of_it(
        self, workers: tuple[Worker, Worker]
    ) -> None:
        one, other = workers
        for number in range(ROUNDS):
            target, sender = await one.own(f"t{number}"), await other.own(f"s{number}")
            _, answer = await race(
                one.close(target), other.accepted(other.entry(sender, requests=[send(target.id)], is_freed=True))
            )
            (outcome,) = payloads(answer)
            after = await one.read(target.id)
            assert after.status is Status.COMPLETED
            assert outcome == (b"0" if after.inbox_seq else b"1")
            await other.storage.terminate(sender.id, b"{}")

    async def test_commit_of_a_session_that_is_being_reaped_is_whole_or_nothing(
        self, open_storage: OpenStorage, clock: AdjustableClock
    ) -> None:
        one, other = await open_storage(), await open_storage()
        for number in range(ROUNDS):
            doomed = await Worker.start(one, clock, process=f"p{number}")
            successor = await Worker.start(other, clock)
            owned = await doomed.own(f"x{number}")
            entry = doomed.entry(owned, note(), requests=[child(f"k{number}", ABANDON)])
            is_gone = f"p{number}".__eq__
            answer, freed = await race(doomed.accepted(entry), other.reap_sessions(is_gone))
            # That may pass over a session that is just being used.
            assert freed or await other.reap_sessions(is_gone) == 1
            is_written = isinstance(answer, Accepted)
            assert is_written or isinstance(answer, SessionLostError)
            claims = {claim.instance.id: claim for claim in await successor.claim_all()}
            assert len(claims[owned.id].history) == (2 if is_written else 0)
            assert (f"k{number}" in claims) == is_written
            for claim in claims.values():
                await successor.close(claim.instance)

    async def test_termination_and_completion_end_an_instance_once(self, workers: tuple[Worker, Worker]) -> None:
        one, other = workers
        for number in range(ROUNDS):
            owned = await one.own(f"x{number}")
            closing = one.entry(owned, CLOSING, status=Status.COMPLETED, wake_at=None)
            (answer,), _ = await race(one.commit(closing), other.storage.terminate(owned.id, b"{}"))
            after = await other.read(owned.id)
            assert after.status is (Status.COMPLETED if isinstance(answer, Accepted) else Status.TERMINATED)
            assert len(await other.storage.history(owned.key)) == 1

    async def test_many_reap_what_is_dead_once(self, crowd: list[Worker], clock: AdjustableClock) -> None:
        owned = [await worker.own() for worker in crowd[:5] for _ in range(3)]
        outlive(clock)
        freed = await race(*(worker.storage.reap_sessions() for worker in crowd))
        assert sum(freed) == len(owned)
        assert [(await crowd[0].read(instance.id)).recoveries for instance in owned] == [1] * len(owned)

    async def test_many_prune_at_once(self, crowd: list[Worker], clock: AdjustableClock, database: Database) -> None:
        await crowd[0].storage.publish([Publication("news", b"1", str(number)) for number in range(50)])
        outlive(clock)
        hour = timedelta(hours=1)
        removed = 0
        for _ in range(20):
            removed += sum(await race(*(w.storage.prune(archives=hour, deliveries=hour, limit=7) for w in crowd)))
        assert removed == 100
        assert [await database.count(table) for table in ("topics", "publications")] == [0, 0]

    async def test_many_hand_out_a_broadcast_once(self, crowd: list[Worker]) -> None:
        one = crowd[0]
        for number in range(12):
            await subscribed(one, f"x{number}", BROADCAST)
        await publish(one.storage, *(f"m{number}" for number in range(10)))
        await hand_out_at_once(crowd, 5)
        expected = [f"m{number}" for number in range(10)]
        assert [[item.split()[-1] for item in items] for items in (await unread(one)).values()] == [expected] * 12

    async def test_many_hand_out_a_competing_message_once(self, crowd: list[Worker]) -> None:
        one = crowd[0]
        for number in range(12):
            await wait(one, *await subscribed(one, f"x{number}", COMPETING))
        await publish(one.storage, *(f"m{number}" for number in range(20)))
        await hand_out_at_once(crowd, 2)
        found = [item.split()[-1] for items in (await unread(one)).values() for item in items]
        assert sorted(found) == sorted(f"m{number}" for number in range(12))

    async def test_transaction_sees_what_one_of_another_process_has_committed(
        self, workers: tuple[Worker, Worker], database: Database
    ) -> None:
        """Whether they can be open at once or one waits for the other is the database's affair."""
        one, other = workers
        await make_table(database)
        owned = await one.own()
        first = await Body(one.storage).open()
        await first.execute("INSERT INTO mine VALUES (1)", ())
        opening = asyncio.create_task(Body(other.storage).open())
        assert isinstance(await first.commit(one.session, one.entry(owned, note())), Accepted)
        second = await opening
        assert (await second.execute("SELECT x FROM mine", ())).rows == [(1,)]
        await second.rollback()
