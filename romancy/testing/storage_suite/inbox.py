"""Posts from outside, and what owners read of their inboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from romancy.core.records import InboxItem, InboxKind, Post, PostResult
from romancy.testing.storage_suite.making import MINUTE, NEVER, Worker, about, note, post
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock


class InboxSuite(Suite):
    """What was posted is delivered once, wakes whom it must, and is read by the owner alone."""

    async def test_post_reaches_the_inbox(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        owned = await worker.own("target")
        clock.advance(MINUTE)
        item = post("target", "m", kind=InboxKind.CANCEL, body=b'"why"')
        assert await storage.post([item]) == [PostResult.POSTED]
        (mail,) = await storage.mail(worker.session)
        assert (mail.key, mail.execution_id, mail.inbox_seq) == (owned.key, owned.execution_id, 1)
        assert mail.items == [InboxItem(1, InboxKind.CANCEL, "replies", "m", None, b'"why"', mail.items[0].at)]
        assert mail.items[0].at == about(clock.now())

    async def test_post_to_an_unknown_id_is_not_found(self, worker: Worker, storage: Storage) -> None:
        assert await storage.post([post("nobody")]) == [PostResult.NOT_FOUND]

    async def test_post_to_an_id_with_more_behind_a_null_character_is_not_found(
        self, worker: Worker, storage: Storage
    ) -> None:
        await worker.own("target")
        assert await storage.post([post("target\0two")]) == [PostResult.NOT_FOUND]

    async def test_post_to_a_closed_instance_is_closed(self, worker: Worker, storage: Storage) -> None:
        closed = await worker.close(await worker.own("target"))
        assert await storage.post([post("target")]) == [PostResult.CLOSED]
        assert await worker.read("target") == closed

    async def test_post_wakes_an_owned_instance(self, worker: Worker, storage: Storage, clock: AdjustableClock) -> None:
        await worker.advance(await worker.own("target"), note(), wake_at=None)
        await storage.post([post("target")])
        after = await worker.read("target")
        assert (after.wake_at, after.session) == (about(clock.now()), worker.session)

    async def test_post_wakes_a_sleeping_instance(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        until = worker.at(1)
        await worker.advance(await worker.own("target"), note(), wake_at=until, is_freed=True)
        assert await worker.claim_all() == []
        await storage.post([post("target")])
        (claim,) = await worker.claim_all()
        assert claim.instance.id == "target"

    async def test_post_does_not_cost_a_due_instance_its_place(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        due = await worker.create("target")
        clock.advance(5 * MINUTE)
        await storage.post([post("target")])
        assert (await worker.read("target")).wake_at == due.wake_at

    async def test_message_does_not_start_a_pending_instance_early(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        later = worker.at(1)
        await worker.create("target", wake_at=later)
        await storage.post([post("target")])
        assert (await worker.read("target")).wake_at == later
        clock.advance(2 * MINUTE)
        (claim,) = await worker.claim_all()
        assert len(claim.inbox) == 1

    async def test_message_to_a_pause_does_not_begin_an_instance_early(self, worker: Worker, storage: Storage) -> None:
        later = worker.at(1)
        await worker.create("target", wake_at=later)
        await storage.pause("target")
        await storage.post([post("target")])
        await storage.unpause("target")
        assert (await worker.read("target")).wake_at == later
        assert await worker.claim_all() == []

    async def test_message_to_a_pause_is_there_when_the_run_goes_on(self, worker: Worker, storage: Storage) -> None:
        await worker.advance(await worker.own("target"), note(), wake_at=NEVER, is_freed=True)
        await storage.pause("target")
        await storage.post([post("target")])
        await storage.unpause("target")
        (claim,) = await worker.claim_all()
        assert len(claim.inbox) == 1

    async def test_cancel_reaches_a_pending_instance_early(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        await worker.create("target", wake_at=worker.at(1))
        await storage.post([post("target", kind=InboxKind.CANCEL)])
        (claim,) = await worker.claim_all()
        assert [item.kind for item in claim.inbox] == [InboxKind.CANCEL]

    async def test_post_twice_is_a_duplicate(self, worker: Worker, storage: Storage) -> None:
        await worker.own("target")
        item = post("target")
        assert await storage.post([item]) == [PostResult.POSTED]
        assert await storage.post([item]) == [PostResult.DUPLICATE]
        assert (await worker.read("target")).inbox_seq == 1

    async def test_post_is_a_duplicate_after_its_message_was_read(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("target")
        item = post("target")
        await storage.post([item])
        read = await worker.advance(owned, note(), consumed=[1], inbox_seen=1, wake_at=None)
        assert await storage.post([item]) == [PostResult.DUPLICATE]
        assert await worker.read("target") == read

    async def test_post_is_a_duplicate_after_the_instance_has_ended(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("target")
        item = post("target")
        await storage.post([item])
        await worker.close(owned)
        assert await storage.post([item]) == [PostResult.DUPLICATE]

    async def test_post_is_new_to_a_restarted_instance(self, worker: Worker, storage: Storage) -> None:
        await worker.close(await worker.own("target"))
        await worker.create("target", on_conflict="restart")
        item = post("target")
        assert await storage.post([item]) == [PostResult.POSTED]
        await storage.terminate("target", b"{}")
        await worker.create("target", on_conflict="restart")
        assert await storage.post([item]) == [PostResult.POSTED]

    async def test_post_ids_are_an_instance_s_own(self, worker: Worker, storage: Storage) -> None:
        await worker.own("one")
        await worker.own("other")
        assert await storage.post([post("one", "m")]) == [PostResult.POSTED]
        assert await storage.post([post("other", "m")]) == [PostResult.POSTED]

    async def test_mail_is_what_the_owner_has_not_seen(self, worker: Worker, storage: Storage) -> None:
        owned = await worker.own("target")
        await storage.post([post("target", "m1")])
        await worker.accepted(worker.entry(owned, inbox_seen=1))
        assert await storage.mail(worker.session) == []
        await storage.post([post("target", "m2")])
        await storage.post([post("target", "m3")])
        (mail,) = await storage.mail(worker.session)
        assert ([i.message_id for i in mail.items], mail.inbox_seq) == (["m2", "m3"], 3)

    async def test_mail_is_of_own_instances_alone(self, worker: Worker, storage: Storage) -> None:
        await worker.own("mine")
        await storage.post([post("mine")])
        stranger = await Worker.start(storage, worker.clock)
        await stranger.own("theirs")
        assert await storage.mail(stranger.session) == []
        await storage.post([post("theirs")])
        assert len(await storage.mail(stranger.session)) == 1
        assert len(await storage.mail(worker.session)) == 1

    async def test_mail_comes_ordered_by_instance(self, worker: Worker, storage: Storage) -> None:
        owned = [await worker.own() for _ in range(3)]
        for instance in [*reversed(owned), *owned]:
            await storage.post([post(instance.id)])
        mails = await storage.mail(worker.session)
        assert [mail.key for mail in mails] == [instance.key for instance in owned]
        assert [[item.seq for item in mail.items] for mail in mails] == [[1, 2]] * 3

    async def test_post_to_a_blocked_instance_waits_for_another_build(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        await worker.block("target")
        assert await storage.post([post("target")]) == [PostResult.POSTED]
        assert await worker.claim_all() == []
        fixed = await Worker.start(storage, clock, build="fixed")
        (claim,) = await fixed.claim_all()
        assert len(claim.inbox) == 1

    async def test_posts_are_delivered_all_or_none(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own("one")
        await worker.close(await worker.own("closed"))
        posts = [post("one", "m1"), post("closed"), post("nobody"), post("one", "m2")]
        results = await storage.post(posts)
        assert results[1:3] == [PostResult.CLOSED, PostResult.NOT_FOUND]
        assert await worker.read("one") == one
        assert await storage.post([posts[0], posts[3]]) == [PostResult.POSTED] * 2
        (mail,) = await storage.mail(worker.session)
        assert [item.message_id for item in mail.items] == ["m1", "m2"]

    async def test_post_twice_in_one_call_is_delivered_once(self, worker: Worker, storage: Storage) -> None:
        await worker.own("target")
        assert await storage.post([post("target", "m")] * 2) == [PostResult.POSTED, PostResult.DUPLICATE]
        assert (await worker.read("target")).inbox_seq == 1

    async def test_post_for_another_start_is_not_found(self, worker: Worker, storage: Storage) -> None:
        one = await worker.own("one")
        item = Post("one", InboxKind.ACTIVITY, None, b"{}", "m", execution_id=one.execution_id + 1)
        assert await storage.post([item]) == [PostResult.NOT_FOUND]
        assert await storage.post([msgspec.structs.replace(item, execution_id=one.execution_id)]) == [PostResult.POSTED]
        assert (await worker.read("one")).inbox_seq == 1

    async def test_post_keeps_what_was_written(self, worker: Worker, storage: Storage) -> None:
        await worker.own("target")
        item = Post("target", InboxKind.MESSAGE, "größe", bytes(range(256)), "m", sender="é", headers=b"\x00h")
        assert await storage.post([item]) == [PostResult.POSTED]
        (mail,) = await storage.mail(worker.session)
        (found,) = mail.items
        assert (found.channel, found.body, found.sender, found.headers) == (
            item.channel,
            item.body,
            item.sender,
            item.headers,
        )
