"""Publishing, subscribing, and handing out what was published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from romancy.core.events import SendOutcome
from romancy.core.records import Accepted, InboxKind, Instance, InstanceFilter, PostResult, Publication, Rejected
from romancy.core.requests import ChannelMode, EndWait, Publish, Subscribe, Unsubscribe, Wait
from romancy.testing.storage_suite.making import MINUTE, NEVER, Worker, about, note, payloads, post, send
from romancy.testing.storage_suite.suite import Suite

if TYPE_CHECKING:
    from romancy.storage.protocol import Storage
    from romancy.testing.clock import AdjustableClock
    from romancy.testing.storage_suite.database import Database

BROADCAST = ChannelMode.BROADCAST
COMPETING = ChannelMode.COMPETING


def publication(message_id: str, channel: str = "news") -> Publication:
    """Return a message whose body is its id."""
    return Publication(channel, message_id.encode(), message_id, headers=b"headers")


async def publish(storage: Storage, *message_ids: str, channel: str = "news") -> None:
    """Publish messages that nobody has published yet."""
    results = await storage.publish([publication(message_id, channel) for message_id in message_ids])
    assert results == [PostResult.POSTED] * len(message_ids)


async def subscribe(
    worker: Worker, instance: Instance, mode: ChannelMode, *, channel: str = "news", activity_id: str = "1:subscribe"
) -> tuple[Instance, str]:
    """Subscribe an instance; return it as it then stands, and its mailbox."""
    entry = worker.entry(instance, requests=[Subscribe(activity_id, channel, mode)], wake_at=None)
    (outcome,) = payloads(await worker.accepted(entry))
    mailbox = msgspec.json.decode(outcome or b"", type=str)
    return await worker.read(instance.id), mailbox


async def subscribed(worker: Worker, id: str, mode: ChannelMode) -> tuple[Instance, str]:
    """Make an instance that has a subscription, and is owned by the worker."""
    return await subscribe(worker, await worker.own(id), mode)


async def wait(worker: Worker, instance: Instance, mailbox: str, activity_id: str = "2:receive") -> Instance:
    """Have an instance wait for a message of a competing subscription."""
    return await worker.advance(instance, note(), orders=[Wait(activity_id, "news", mailbox)], wake_at=None)


async def hand_out(storage: Storage, limit: int = 100) -> list[int]:
    """Hand out all that can be; return the keys of the instances that were reached."""
    reached: list[int] = []
    for _ in range(100):
        found = await storage.hand_out(limit=limit)
        reached += found.reached
        if not found.has_more:
            return reached
    raise AssertionError("handing out does not come to an end")


async def unread(worker: Worker) -> dict[str, list[str]]:
    """Return what the worker's instances have not looked at, by the id of the instance: mailboxes and messages."""
    by_key = {instance.key: instance.id for instance in await worker.storage.list(InstanceFilter(), limit=1000)}
    return {
        by_key[mail.key]: [f"{item.channel} {item.message_id}" for item in mail.items]
        for mail in await worker.storage.mail(worker.session)
    }


class TopicsSuite(Suite):
    """Every message of a broadcast topic reaches all subscribers, every one of a competing topic one receive."""

    async def test_publish_twice_is_a_duplicate(self, worker: Worker, storage: Storage) -> None:
        await subscribed(worker, "one", BROADCAST)
        await publish(storage, "m1")
        assert await storage.publish([publication("m1"), publication("m2"), publication("m2")]) == [
            PostResult.DUPLICATE,
            PostResult.POSTED,
            PostResult.DUPLICATE,
        ]
        await hand_out(storage)
        assert [len(items) for items in (await unread(worker)).values()] == [2]
        assert await storage.publish([publication("m1")]) == [PostResult.DUPLICATE]

    async def test_publish_to_a_direct_channel_is_refused_as_a_whole(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        await worker.own("target")
        await storage.post([post("target")])
        messages = [publication("m1"), publication("m2", "replies")]
        assert await storage.publish(messages) == [PostResult.OTHER_MODE] * 2
        assert await database.count("topics") == await database.count("publications") == 0

    @pytest.mark.parametrize("mode", [BROADCAST, COMPETING, ChannelMode.TOPIC])
    async def test_send_and_post_to_a_topic_are_refused(
        self, worker: Worker, storage: Storage, mode: ChannelMode
    ) -> None:
        if mode is ChannelMode.TOPIC:
            await publish(storage, "m1")
        else:
            await subscribed(worker, "one", mode)
        target, sender = await worker.own("target"), await worker.own("sender")
        item = msgspec.structs.replace(post("target"), channel="news")
        assert await storage.post([item]) == [PostResult.OTHER_MODE]
        answer = await worker.accepted(worker.entry(sender, requests=[send("target", channel="news")]))
        assert payloads(answer) == [b"%d" % SendOutcome.OTHER_MODE]
        assert await worker.read("target") == target

    async def test_cancel_is_of_no_channel(self, worker: Worker, storage: Storage) -> None:
        await subscribed(worker, "one", BROADCAST)
        item = msgspec.structs.replace(post("one", kind=InboxKind.CANCEL), channel="news")
        assert await storage.post([item]) == [PostResult.POSTED]

    @pytest.mark.parametrize(("first", "second"), [(BROADCAST, COMPETING), (COMPETING, BROADCAST)])
    async def test_first_subscription_decides_how_a_topic_hands_out(
        self, worker: Worker, database: Database, first: ChannelMode, second: ChannelMode
    ) -> None:
        await subscribed(worker, "one", first)
        other = await worker.own("other")
        requests = [Subscribe("1:subscribe", "news", second), Publish("2:publish", "news", b"1", "m")]
        answer = await worker.accepted(worker.entry(other, requests=requests))
        assert payloads(answer) == [b"%d" % first, b"0"]
        assert await database.count("subscriptions") == 1

    async def test_subscription_to_a_direct_channel_is_refused(self, worker: Worker) -> None:
        await worker.own("target")
        one = await worker.own("one")
        requests = [send("target"), Subscribe("3:s", "replies", BROADCAST), Publish("4:p", "replies", b"1", "m")]
        assert payloads(await worker.accepted(worker.entry(one, requests=requests))) == [
            b"0",
            b"%d" % ChannelMode.DIRECT,
            b"%d" % SendOutcome.OTHER_MODE,
        ]

    async def test_rejected_entry_neither_subscribes_nor_publishes(self, worker: Worker, database: Database) -> None:
        one = await worker.own("one")
        before = await database.counts()
        requests = [Subscribe("1:s", "news", BROADCAST), Publish("2:p", "other", b"1", "m")]
        orders = [Wait("3:w", "news", "news:0/1")]
        (answer,) = await worker.commit(worker.entry(one, note(), seq=5, requests=requests, orders=orders))
        assert isinstance(answer, Rejected)
        assert await database.counts() == before

    async def test_turn_that_publishes_says_that_there_is_something_to_hand_out(self, worker: Worker) -> None:
        one, plain = await worker.own("one"), await worker.own("plain")
        entry = worker.entry(one, requests=[Publish("1:publish", "news", b"1", "m")])
        answers = await worker.commit(entry, worker.entry(plain, note()))
        assert [isinstance(a, Accepted) and a.has_topics for a in answers] == [True, False]

    async def test_broadcast_reaches_all_that_subscribed_before(
        self, worker: Worker, storage: Storage, clock: AdjustableClock
    ) -> None:
        publisher = await worker.own("publisher")
        (one, one_box), (two, two_box) = [await subscribed(worker, id, BROADCAST) for id in ("one", "two")]
        await publish(storage, "m1")
        published_at = clock.now()
        await worker.advance(publisher, requests=[Publish("1:p", "news", b"b", "m2", headers=b"h")])
        late, late_box = await subscribed(worker, "late", BROADCAST)
        await publish(storage, "m3")
        clock.advance(5 * MINUTE)
        assert set(await hand_out(storage)) == {one.key, two.key, late.key}
        assert await unread(worker) == {
            "one": [f"{one_box} m1", f"{one_box} m2", f"{one_box} m3"],
            "two": [f"{two_box} m1", f"{two_box} m2", f"{two_box} m3"],
            "late": [f"{late_box} m3"],
        }
        (mail,) = [mail for mail in await storage.mail(worker.session) if mail.key == one.key]
        assert [(i.seq, i.kind, i.sender, i.headers, i.body) for i in mail.items] == [
            (1, InboxKind.MESSAGE, None, b"headers", b"m1"),
            (2, InboxKind.MESSAGE, "publisher", b"h", b"b"),
            (3, InboxKind.MESSAGE, None, b"headers", b"m3"),
        ]
        assert [item.at for item in mail.items] == [about(clock.now())] * 3
        assert [item.sent_at for item in mail.items] == [about(published_at)] * 3
        assert await hand_out(storage) == []

    async def test_hand_out_wakes_whom_it_reaches(self, worker: Worker, storage: Storage) -> None:
        hot, _ = await subscribed(worker, "hot", BROADCAST)
        cold, _ = await subscribed(worker, "cold", BROADCAST)
        await worker.advance(cold, wake_at=NEVER, is_freed=True)
        await publish(storage, "m1")
        assert await worker.claim_all() == []
        assert sorted(await hand_out(storage)) == sorted([hot.key, cold.key])
        (claim,) = await worker.claim_all()
        assert (claim.instance.id, [item.message_id for item in claim.inbox]) == ("cold", ["m1"])
        after = await worker.read("hot")
        assert (after.wake_at, after.inbox_seq) == (about(worker.clock.now()), 1)

    async def test_broadcast_is_handed_out_in_portions_each_once(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        owned = [await subscribed(worker, f"n{number}", BROADCAST) for number in range(7)]
        await publish(storage, "m1", "m2", "m3")
        first = await storage.hand_out(limit=2)
        assert first.has_more
        assert len(first.reached) < len(owned)
        await hand_out(storage, limit=2)
        assert await unread(worker) == {i.id: [f"{box} m{n}" for n in (1, 2, 3)] for i, box in owned}
        assert await database.count("topics") == 0

    async def test_broadcast_before_any_subscription_reaches_nobody(self, worker: Worker, storage: Storage) -> None:
        await publish(storage, "m1")
        assert await hand_out(storage) == []
        await subscribed(worker, "one", BROADCAST)
        assert await hand_out(storage) == []
        assert await unread(worker) == {}

    async def test_every_subscription_of_an_instance_gets_its_copy(self, worker: Worker, storage: Storage) -> None:
        one, first = await subscribed(worker, "one", BROADCAST)
        one, second = await subscribe(worker, one, BROADCAST, activity_id="t1.4:subscribe")
        assert first != second
        await publish(storage, "m1")
        assert await hand_out(storage) == [one.key]
        assert sorted((await unread(worker))["one"]) == sorted([f"{first} m1", f"{second} m1"])

    async def test_closed_subscription_gets_no_more_and_drops_what_is_unread(
        self, worker: Worker, storage: Storage, database: Database
    ) -> None:
        one, mailbox = await subscribed(worker, "one", BROADCAST)
        await publish(storage, "m1")
        await hand_out(storage)
        await worker.advance(one, orders=[Unsubscribe(mailbox)], inbox_seen=1, wake_at=None)
        await publish(storage, "m2")
        assert await hand_out(storage) == []
        assert [await database.count(table) for table in ("subscriptions", "messages", "topics")] == [0, 0, 0]

    async def test_competing_messages_go_to_those_that_have_waited_longest(
        self, worker: Worker, storage: Storage
    ) -> None:
        boxes = dict([await subscribed(worker, id, COMPETING) for id in ("a", "b", "c")])
        (a, a_box), (b, b_box), (c, c_box) = boxes.items()
        for instance, mailbox in ((c, c_box), (a, a_box), (b, b_box)):
            await wait(worker, instance, mailbox)
        await publish(storage, "m1", "m2")
        assert sorted(await hand_out(storage)) == sorted([c.key, a.key])
        assert await unread(worker) == {"a": [f"{a_box} m2"], "c": [f"{c_box} m1"]}
        assert await hand_out(storage) == []
        await publish(storage, "m3")
        assert await hand_out(storage) == [b.key]

    async def test_competing_message_waits_for_a_receive(self, worker: Worker, storage: Storage) -> None:
        await publish(storage, "before")
        one, mailbox = await subscribed(worker, "one", COMPETING)
        await publish(storage, "after")
        assert await hand_out(storage) == []
        one = await wait(worker, one, mailbox, "2:receive")
        assert await hand_out(storage) == [one.key]
        assert await unread(worker) == {"one": [f"{mailbox} before"]}

    async def test_wait_is_served_once(self, worker: Worker, storage: Storage) -> None:
        one, mailbox = await subscribed(worker, "one", COMPETING)
        one = await wait(worker, one, mailbox)
        one = await wait(worker, one, mailbox)
        await publish(storage, "m1", "m2")
        await hand_out(storage)
        one = await wait(worker, one, mailbox)
        await hand_out(storage)
        assert await unread(worker) == {"one": [f"{mailbox} m1"]}

    async def test_wait_that_is_repeated_keeps_its_place(self, worker: Worker, storage: Storage) -> None:
        (one, one_box), (two, two_box) = [await subscribed(worker, id, COMPETING) for id in ("one", "two")]
        one = await wait(worker, one, one_box)
        await wait(worker, two, two_box)
        await wait(worker, one, one_box)
        await publish(storage, "m1")
        assert await hand_out(storage) == [one.key]

    async def test_wait_that_is_over_gets_nothing(self, worker: Worker, storage: Storage, database: Database) -> None:
        one, mailbox = await subscribed(worker, "one", COMPETING)
        one = await wait(worker, one, mailbox)
        await worker.advance(one, orders=[EndWait("2:receive")], wake_at=None)
        await publish(storage, "m1")
        assert await hand_out(storage) == []
        assert await database.count("waits") == 0
        assert await database.count("topics") == 1

    async def test_competing_messages_are_handed_out_in_portions_each_once(
        self, worker: Worker, storage: Storage
    ) -> None:
        for number in range(7):
            await wait(worker, *await subscribed(worker, f"n{number}", COMPETING))
        await publish(storage, *(f"m{number}" for number in range(9)))
        first = await storage.hand_out(limit=2)
        assert (len(first.reached), first.has_more) == (2, True)
        await hand_out(storage, limit=2)
        found = await unread(worker)
        assert [found[f"n{number}"][0].split()[-1] for number in range(7)] == [f"m{number}" for number in range(7)]
        assert [len(items) for items in found.values()] == [1] * 7
