"""``romancy show`` on a failed saga, one that is being undone, and one that waits, in terminals of several kinds."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import pytest

from romancy import App, Channel, NonRetryableError, RetryPolicy, WorkflowFailedError, activity, start_child, workflow

from .shell import parked, romancy

pytestmark = pytest.mark.anyio

answers: Channel[str] = Channel("shown.answers", str)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@activity(name="shown_reserve")
async def reserve(order: str) -> str:
    return f"reservation {order}"


@reserve.compensation(name="shown_release")
async def release(reservation: str, order: str) -> None:
    pass


@activity(name="shown_charge")
async def charge(order: str) -> dict[str, object]:
    return {"amount": 129.9, "currency": "EUR", "order": order}


@charge.compensation(name="shown_refund", retry=RetryPolicy(initial_interval=timedelta(seconds=50)))
async def refund(payment: dict[str, object], order: str) -> None:
    if order == "stuck":
        raise ConnectionError("the bank does not answer")


@activity(name="shown_ship", retry=RetryPolicy(initial_interval=timedelta(milliseconds=10), max_attempts=2))
async def ship(order: str) -> None:
    raise ConnectionError(f"no carrier takes {order}, {'for many reasons, ' * 20}and never will")


@workflow(name="shown_fulfil")
async def fulfil(order: str) -> None:
    await reserve(order)
    await charge(order)
    await ship(order)


@workflow(name="shown_child")
async def child() -> None:
    await answers.receive()


@workflow(name="shown_waits")
async def waits() -> None:
    await start_child(child(), id="the child")
    async with asyncio.timeout(86_400):
        await answers.receive()


@workflow(name="shown_long")
async def long() -> None:
    for number in range(50):
        await reserve(str(number))


@workflow(name="shown_buggy")
async def buggy() -> None:
    await reserve("x")
    raise TypeError("a bug")


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("colour", [False, True])
async def test_failed_saga_fits_into_a_screen(url: str, columns: int, colour: bool) -> None:
    more = {"COLUMNS": str(columns)} | ({"NO_COLOR": "", "FORCE_COLOR": "1"} if colour else {})
    async with App(url, workflows=[fulfil]) as app:
        handle = await app.start(fulfil("seven"), id="order-7", tags={"customer": "7"})
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        stuck = await app.start(fulfil("stuck"), id="order-8")
        while not any("until" in wait for wait in (await stuck.info()).waiting_on):
            await asyncio.sleep(0.01)
        done = await romancy("show", "order-7", url=url, **more)
        undoing = await romancy("show", "order-8", url=url, **more)
    assert (done.status, done.err) == (0, "")
    assert ("\x1b[" in done.out) is colour
    lines = _ESCAPES.sub("", done.out).splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= columns for line in lines)
    text = re.sub(r"\s+", " ", "\n".join(lines))
    assert lines[0] == "order-7  shown_fulfil version 1  failed"
    for pattern in (
        r"✓ 1:shown_reserve \(undone by undo.\d:shown_release\) \"reserv",
        r"✓ 2:shown_charge \(undone by undo.\d:shown_refund\) \{\"amount",
        r"↻ 3:shown_ship attempt 1 failed: ConnectionError: no carrier",
        r"✗ 3:shown_ship ConnectionError: no carrier",
        r"↩ undo.\d:shown_refund undid 2:shown_charge",
        r"↩ undo.\d:shown_release undid 1:shown_reserve",
        r"✗ run failed: ConnectionError",
        r"2 activities done, 1 failed, 2 undone",
        r"and never will \(after 2",
    ):
        assert re.search(pattern, text), pattern
    told = " ".join(_ESCAPES.sub("", undoing.out).split())
    assert "2 activities done, 1 failed, 1 being undone" in told
    assert re.search(
        r"waits for undo.1:shown_refund, undoing 2:shown_charge, attempt 2, since \S+ \(\S+ s\), until", told
    )


async def test_what_is_waited_for_is_shown_with_since_when(url: str) -> None:
    async with App(url, workflows=[waits, child, long, buggy]) as app:
        await app.start(waits(), id="one")
        await parked(app, "one")
        await parked(app, "the child")
        done = await romancy("show", "one", url=url)
        for pattern in (
            r"waits for \S+:shown.answers, a message on channel 'shown.answers', since \d\d:\d\d:\d\d",
            r"waits for \S+:shown_child, child the child \(running\), since",
            r"waits for @1, a timer, until",
        ):
            assert re.search(pattern, done.out), (pattern, done.out)
        shown = (await romancy("show", "one", "--json", url=url)).json
        assert sorted(shown) == ["children", "instance", "timeline"]
        assert [(each["id"], each["status"], each["on_parent_close"]) for each in shown["children"]] == [
            ("the child", "running", "cancel")
        ]
        await app.run(long(), id="long")
        done = await romancy("show", "long", "--events", "6", url=url)
        assert "… 45 more" in done.out
        assert "50 activities done" in done.out
        assert len((await romancy("show", "long", "--events", "0", url=url)).out.splitlines()) > 50
        handle = await app.start(buggy(), id="buggy")
        while await handle.status() != "blocked":
            await asyncio.sleep(0.01)
        done = await romancy("show", "buggy", url=url)
        assert "blocked: TypeError: a bug" in done.out
        assert (await romancy("pause", "one", url=url)).status == 0
        assert "until romancy unpause" in (await romancy("show", "one", url=url)).out
    async with App(url, workflows=[child]) as app:
        await app.unpause("one")
        await asyncio.sleep(0.01)
        assert "does one serve 'shown_waits'?" in " ".join((await romancy("show", "one", url=url)).out.split())


async def test_error_that_is_not_retried_is_shown(url: str) -> None:
    @activity(name="shown_refuses")
    async def refuses() -> None:
        raise NonRetryableError("never")

    @workflow(name="shown_refused")
    async def refused() -> None:
        await refuses()

    async with App(url, workflows=[refused]) as app:
        handle = await app.start(refused(), id="one")
        with pytest.raises(WorkflowFailedError):
            await handle.result()
        done = await romancy("show", "one", url=url)
    assert "0 activities done, 1 failed" in done.out
