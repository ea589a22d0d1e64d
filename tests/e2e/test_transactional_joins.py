"""What a transactional activity asks of its App belongs to its transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from romancy import (
    App,
    Channel,
    Connection,
    InstanceNotFoundError,
    NonRetryableError,
    RetryPolicy,
    StorageError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    activity,
    activity_info,
    connection,
    workflow,
)

from .conftest import MakeApp
from .tables import rows_at
from .transactional import bodies, forget, rows, starts, work, write

pytestmark = pytest.mark.anyio

letters = Channel("txjoin_letters", str)
news = Channel("txjoin_news", str)
apps: list[App] = []


@pytest.fixture(autouse=True)
def fresh_world(request: pytest.FixtureRequest) -> None:
    forget(request)
    apps.clear()


@workflow
async def txjoin_wait() -> str:
    return await letters.receive()


@workflow
async def txjoin_follow() -> str:
    async with news.subscribe() as subscription:
        return await subscription.receive()


@workflow
async def txjoin_end() -> str:
    return "over"


@activity(transactional=True, retry=RetryPolicy(max_attempts=1))
async def txjoin_run_before() -> None:
    assert await apps[0].run(txjoin_end(), id="new") == "over"
    connection()
    raise ValueError


@workflow
async def txjoin_early() -> None:
    await txjoin_run_before()


def inside(act: Callable[[App], Awaitable[Any]], *, fails: bool = False) -> Callable[[Connection], Awaitable[Any]]:
    """Return a body that does something and then, if it is to fail, fails for good."""

    async def body(_: Connection) -> Any:
        done = await act(apps[0])
        if fails:
            raise NonRetryableError("rolled back")
        return done

    return body


async def start(app: App) -> None:
    await app.start(txjoin_wait(), id="target-new")


async def restart(app: App) -> None:
    await app.start(txjoin_wait(), id="target-ended", on_conflict="restart")


async def send(app: App) -> None:
    await app.send(letters, "hello", to="target-waiting")


async def send_many(app: App) -> None:
    await app.send_many(letters, [("target-waiting", "hello"), ("target-paused", "hello")])


async def publish(app: App) -> None:
    await app.publish(news, "hello")


async def cancel(app: App) -> None:
    await (await app.get("target-waiting")).cancel()


async def pause(app: App) -> None:
    await (await app.get("target-waiting")).pause()


async def unpause(app: App) -> None:
    await (await app.get("target-paused")).unpause()


async def terminate(app: App) -> None:
    await (await app.get("target-waiting")).terminate()


async def purge(app: App) -> None:
    await app.purge("target-ended")


ACTS = [start, restart, send, send_many, publish, cancel, pause, unpause, terminate, purge]


async def targets(database: str) -> list[Any]:
    """Return what the database says of the instances that are acted upon, and of topics."""
    acted_upon = "SELECT id, execution_id, status, inbox_seq FROM instances WHERE id LIKE 'target-%' ORDER BY id"
    found, published = await rows_at(database, acted_upon, "SELECT count(*) FROM publications")
    return [*found, *published]


@pytest.mark.parametrize("fails", [False, True], ids=["committed", "rolled back"])
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
async def test_call_takes_effect_if_the_activity_commits(
    make_app: MakeApp, database: str, act: Callable[[App], Awaitable[None]], fails: bool
) -> None:
    async with make_app(database) as app:
        apps.append(app)
        waiting = await app.start(txjoin_wait(), id="target-waiting")
        follower = await app.start(txjoin_follow(), id="target-following")
        await (await app.start(txjoin_wait(), id="target-paused")).pause()
        await app.run(txjoin_end(), id="target-ended")
        while "subscribed" not in [event.kind for event in await follower.history()]:
            await asyncio.sleep(0.002)
        while await waiting.status() != "running":
            await asyncio.sleep(0.002)
        seen: list[Any] = []

        async def body(db: Connection) -> None:
            await inside(act, fails=False)(db)
            seen.append(await targets(database))
            if fails:
                raise NonRetryableError("rolled back")

        bodies["act"] = body
        before = await targets(database)
        if fails:
            with pytest.raises(WorkflowFailedError, match="rolled back"):
                await work(app, "act")
        else:
            await work(app, "act")
        assert seen == [before]
        if fails:
            assert await targets(database) == before
        else:
            assert await targets(database) != before
        assert starts["act"] == 1
        if act is send and not fails:
            assert await waiting.result(timeout=5) == "hello"
        if act is publish and not fails:
            assert await follower.result(timeout=5) == "hello"
        if act is terminate and not fails:
            with pytest.raises(WorkflowTerminatedError):
                await waiting.result(timeout=5)


async def test_instance_that_is_started_inside_runs_when_it_is_committed(make_app: MakeApp) -> None:
    handles: list[Any] = []

    async def act(app: App) -> None:
        handles.append(await app.start(txjoin_end(), id="new"))

    bodies["act"] = inside(act)
    async with make_app() as app:
        apps.append(app)
        await work(app, "act")
        assert await handles[0].result(timeout=5) == "over"


async def test_handle_on_what_is_rolled_back_finds_nothing(make_app: MakeApp) -> None:
    handles: list[Any] = []

    async def act(app: App) -> None:
        handles.append(await app.start(txjoin_end(), id="new"))

    bodies["act"] = inside(act, fails=True)
    async with make_app() as app:
        apps.append(app)
        with pytest.raises(WorkflowFailedError):
            await work(app, "act")
        other = await app.run(txjoin_end(), id="other")  # it may get the key of the one that is gone
        assert other == "over"
        with pytest.raises(InstanceNotFoundError):
            await handles[0].result(timeout=5)


@pytest.mark.parametrize("place", ["memory", "file"])
async def test_reading_inside_sees_what_is_not_committed_yet(make_app: MakeApp, database: str, place: str) -> None:
    async def act(app: App) -> list[Any]:
        await write(connection(), "tea")
        handle = await app.start(txjoin_wait(), id="new")
        ended = await app.get("ended")
        return [
            await handle.status(),
            [event.kind for event in await ended.history()],
            [info.id for info in await app.list(id_prefix="new")],
            await ended.result(),
            [run.run for run in await ended.runs()],
        ]

    bodies["act"] = inside(act)
    async with make_app("" if place == "memory" else database) as app:
        apps.append(app)
        await app.run(txjoin_end(), id="ended")
        assert await work(app, "act") == [["pending", ["run_completed"], ["new"], "over", [0]]]
        assert await rows(app) == ["tea"]
        await (await app.get("new")).terminate()


async def test_waiting_inside_for_what_can_not_go_on_is_refused(make_app: MakeApp) -> None:
    async def act(app: App) -> None:
        await app.run(txjoin_end(), id="new")

    bodies["act"] = inside(act)
    async with make_app() as app:
        apps.append(app)
        with pytest.raises(WorkflowFailedError, match="'new' can't end while the transaction"):
            await work(app, "act")
        with pytest.raises(InstanceNotFoundError):
            await app.get("new")


async def test_calls_before_connection_do_not_belong_to_the_transaction(make_app: MakeApp) -> None:

    async with make_app() as app:
        apps.append(app)
        with pytest.raises(WorkflowFailedError):
            await app.run(txjoin_early())
        assert await (await app.get("new")).status() == "completed"


async def test_app_on_another_database_is_not_concerned(make_app: MakeApp, tmp_path: Path) -> None:
    async def act(_: App) -> None:
        await write(connection(), "tea")
        assert await apps[1].run(txjoin_end(), id="elsewhere") == "over"

    bodies["act"] = inside(act, fails=True)
    async with make_app() as app, make_app(f"sqlite:///{tmp_path / 'other.db'}") as other:
        apps.extend((app, other))
        with pytest.raises(WorkflowFailedError, match="rolled back"):
            await work(app, "act")
        assert await (await other.get("elsewhere")).status() == "completed"
        assert await rows(app) == []


async def test_activity_that_ends_its_own_instance_is_rolled_back(make_app: MakeApp) -> None:
    async def act(app: App) -> None:
        await write(connection(), "tea")
        await (await app.get(activity_info().instance_id)).terminate()

    bodies["act"] = inside(act)
    async with make_app() as app:
        apps.append(app)
        with pytest.raises(WorkflowFailedError, match="changed its own instance"):
            await work(app, "act", id="own")
        assert await rows(app) == []
        assert starts["act"] == 1


async def test_activity_may_send_to_its_own_instance(make_app: MakeApp) -> None:
    async def act(app: App) -> None:
        await app.send(letters, "hello", to=activity_info().instance_id)

    bodies["act"] = inside(act)
    async with make_app() as app:
        apps.append(app)
        assert await work(app, "act") == [None]
        assert starts["act"] == 1


async def test_call_of_a_task_that_outlives_the_activity_is_refused(make_app: MakeApp) -> None:
    left: list[asyncio.Task[Any]] = []
    may_go_on = asyncio.Event()

    async def outlive(app: App) -> None:
        await may_go_on.wait()
        await app.start(txjoin_end(), id="late")

    async def act(app: App) -> None:
        await write(connection(), "tea")
        left.append(asyncio.create_task(outlive(app)))

    bodies["act"] = inside(act)
    async with make_app() as app:
        apps.append(app)
        await work(app, "act")
        may_go_on.set()
        with pytest.raises(StorageError, match="it has returned"):
            await left[0]
        with pytest.raises(InstanceNotFoundError):
            await app.get("late")
