"""What a transactional activity does to the database: together with its result, or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from romancy import (
    ActivityTimedOutError,
    App,
    Connection,
    DefinitionError,
    NonRetryableError,
    OutsideWorkflowError,
    StorageError,
    WorkflowCancelledError,
    WorkflowFailedError,
    activity,
    connection,
    workflow,
)
from romancy.storage.sqlite import SqliteStorage

from .conftest import MakeApp
from .transactional import (
    AT_ONCE,
    Dialect,
    bodies,
    forget,
    look,
    rows,
    starts,
    tx_do,
    tx_do_in_time,
    tx_prepare,
    tx_work,
    tx_work_in_time,
    work,
    write,
)

pytestmark = pytest.mark.anyio

begun = asyncio.Event()
may_end = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh_world(request: pytest.FixtureRequest) -> None:
    global begun, may_end
    begun, may_end = asyncio.Event(), asyncio.Event()
    forget(request)


async def put(db: Connection) -> str:
    await write(db, "tea")
    return "done"


async def hang(db: Connection) -> None:
    """Write, and go on only when told to."""
    await write(db, "tea")
    begun.set()
    await may_end.wait()


async def stay(db: Connection) -> None:
    """Write, and use the transaction until that fails."""
    await write(db, "tea")
    while True:
        await db.fetch_all("SELECT 1")


@activity(retry=AT_ONCE.none())
async def tx_plainly_connected() -> None:
    connection()


@workflow
async def tx_connect_plainly() -> None:
    await tx_plainly_connected()


@workflow
async def tx_withdraw() -> str:
    await tx_prepare()
    pending = asyncio.ensure_future(tx_do("tea"))
    try:
        async with asyncio.timeout(0.2):
            await pending
    except TimeoutError:
        await tx_do("clean-up")
        return "withdrawn"
    return "done"


@workflow
async def tx_catch_time_out() -> str:
    await tx_prepare()
    try:
        await tx_do_in_time.options(retry=AT_ONCE.none())("tea")
    except ActivityTimedOutError as exc:
        await tx_do("clean-up")
        return exc.kind
    return "in time"


@workflow
async def tx_clean_up() -> None:
    await tx_prepare()
    try:
        await tx_do("tea")
    finally:
        await tx_do("clean-up")


async def clean_up(db: Connection) -> None:
    await write(db, "clean-up")


@activity(transactional=True)
async def tx_buy(what: str) -> str:
    await write(connection(), what)
    return what


@tx_buy.compensation(transactional=True, retry=AT_ONCE)
async def tx_give_back(bought: str, what: str) -> None:
    starts["back"] += 1
    await connection().execute(f"DELETE FROM tx WHERE text = {Dialect.parameter}", (bought,))
    await write(connection(), f"{what} was given back")
    if starts["back"] == 1:
        raise ConnectionError


@workflow
async def tx_regret() -> None:
    await tx_prepare()
    await tx_buy("tea")
    raise ValueError("regret")


async def test_compensation_may_be_transactional(make_app: MakeApp) -> None:
    async with make_app() as app:
        with pytest.raises(WorkflowFailedError, match="regret"):
            await app.run(tx_regret())
        assert await rows(app) == ["tea was given back"]
    assert starts == {"back": 2}


async def test_rows_commit_with_the_result(make_app: MakeApp, database: str) -> None:
    seen: list[object] = []

    async def body(db: Connection) -> str:
        await write(db, "tea")
        seen.append(await look(database))
        return "done"

    bodies["tea"] = body
    async with make_app(database) as app:
        assert await work(app, "tea") == ["done"]
        assert await look(database) == (["tea"], 1)
    assert seen == [([], 0)]
    assert starts == {"tea": 1}


async def test_activity_may_do_without_its_transaction(make_app: MakeApp) -> None:
    async def body(_: Connection) -> str:
        return "nothing"

    bodies["idle"] = body
    async with make_app() as app:
        assert await work(app, "idle") == ["nothing"]
        assert await rows(app) == []


async def test_child_tasks_share_the_transaction(make_app: MakeApp) -> None:
    async def body(_: Connection) -> None:
        await asyncio.gather(*(write(connection(), text) for text in ("a", "b", "c")))
        if starts["tea"] == 1:
            raise ConnectionError

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == [None]
        assert await rows(app) == ["a", "b", "c"]


async def test_child_task_that_outlives_the_activity_writes_nothing(make_app: MakeApp) -> None:
    left: list[asyncio.Task[None]] = []

    async def late(db: Connection) -> None:
        await may_end.wait()
        await write(db, "late")

    async def body(db: Connection) -> None:
        await write(db, "tea")
        left.append(asyncio.create_task(late(db)))

    bodies["tea"] = body
    async with make_app() as app:
        await work(app, "tea")
        may_end.set()
        with pytest.raises(StorageError, match="has no transaction any more"):
            await left[0]
        assert await rows(app) == ["tea"]


async def raises() -> None:
    raise ConnectionError


async def cancels_itself() -> None:
    raise asyncio.CancelledError


async def times_out() -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


async def exits() -> None:
    raise SystemExit(3)


async def returns_too_much() -> str:
    return "x" * 10_000


async def returns_what_has_no_encoding() -> object:
    return object()


async def gives_up() -> None:
    raise NonRetryableError("never")


@pytest.mark.parametrize("fail", [raises, cancels_itself, times_out], ids=lambda f: f.__name__)
async def test_failed_attempt_leaves_nothing_to_the_next(
    make_app: MakeApp, fail: Callable[[], Awaitable[None]]
) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        if starts["tea"] == 1:
            await fail()
        return "done"

    bodies["tea"] = body
    async with make_app() as app:
        assert await work(app, "tea") == ["done"]
        assert await rows(app) == ["tea"]
    assert starts == {"tea": 2}


@pytest.mark.parametrize(
    "fail", [gives_up, exits, returns_too_much, returns_what_has_no_encoding], ids=lambda f: f.__name__
)
async def test_failed_activity_leaves_nothing(make_app: MakeApp, fail: Callable[[], Awaitable[Any]]) -> None:
    async def body(db: Connection) -> Any:
        await write(db, "tea")
        return await fail()

    bodies["tea"] = body
    async with make_app(payload_limit=5_000) as app:
        with pytest.raises(WorkflowFailedError):
            await work(app, "tea")
        assert await rows(app) == []
    assert starts == {"tea": 1}


async def test_time_out_rolls_back(make_app: MakeApp) -> None:
    async def body(db: Connection) -> str:
        if starts["tea"] == 1:
            await hang(db)
        return await put(db)

    bodies["tea"] = body
    async with make_app() as app:
        assert await app.run(tx_work_in_time("tea")) == ["done"]
        assert await rows(app) == ["tea"]
    assert starts == {"tea": 2}


async def test_body_that_ignores_its_cancellation_is_rolled_back_all_the_same(make_app: MakeApp) -> None:
    async def body(db: Connection) -> None:
        try:
            await hang(db)
        except asyncio.CancelledError:
            await write(db, "regardless")

    bodies.update({"tea": body, "clean-up": clean_up})
    async with make_app() as app:
        # It ended well in the end, but not in time: what counts is the time-out.
        assert await app.run(tx_catch_time_out()) == "timeout"
        assert await rows(app) == ["clean-up"]


async def test_activity_that_its_workflow_withdraws_is_rolled_back(make_app: MakeApp) -> None:
    bodies.update({"tea": hang, "clean-up": clean_up})
    async with make_app() as app:
        assert await app.run(tx_withdraw()) == "withdrawn"
        assert await rows(app) == ["clean-up"]


async def test_cancelled_run_rolls_back_and_its_clean_up_commits(make_app: MakeApp) -> None:
    bodies.update({"tea": hang, "clean-up": clean_up})
    # Whoever cancels has to wait until the transaction is over: here, until its limit.
    async with make_app(transaction_limit=timedelta(milliseconds=200)) as app:
        handle = await app.start(tx_clean_up())
        await begun.wait()
        await handle.cancel("enough")
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert await rows(app) == ["clean-up"]


@pytest.mark.parametrize("is_forgiving", [False, True], ids=["told", "forgiving"])
async def test_transaction_that_is_open_for_too_long_is_rolled_back(make_app: MakeApp, is_forgiving: bool) -> None:
    errors: list[str] = []

    async def body(db: Connection) -> str:
        if starts["tea"] > 1:
            return await put(db)
        try:
            await stay(db)
        except StorageError as exc:
            errors.append(str(exc))
            if not is_forgiving:
                raise
        return "its result does not count"

    bodies["tea"] = body
    async with make_app(transaction_limit=timedelta(milliseconds=300)) as app:
        assert await work(app, "tea") == ["done"]
        assert await rows(app) == ["tea"]
    assert starts == {"tea": 2}
    assert "transaction_limit" in errors[0]


async def test_statement_that_takes_too_long_is_interrupted(make_app: MakeApp) -> None:
    async def body(db: Connection) -> str:
        await write(db, "tea")
        if starts["tea"] == 1:
            with pytest.raises(StorageError, match="transaction_limit"):
                await db.execute(
                    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
                )
        return "done"

    bodies["tea"] = body
    async with make_app(transaction_limit=timedelta(milliseconds=300)) as app:
        assert await work(app, "tea") == ["done"]
        assert await rows(app) == ["tea"]
    assert starts == {"tea": 2}


@pytest.mark.parametrize("place", ["memory", "file"])
async def test_others_wait_for_the_transaction_and_go_on(make_app: MakeApp, database: str, place: str) -> None:
    bodies["tea"] = hang
    async with make_app("" if place == "memory" else database) as app:
        handle = await app.start(tx_work(["tea"]))
        await begun.wait()
        others = asyncio.gather(app.list(), app.start(tx_work([]), id="other"), handle.status())
        may_end.set()
        await others
        assert await handle.result() == [None]
        assert await (await app.get("other")).result() == []
        assert await rows(app) == ["tea"]


@pytest.mark.parametrize("back_end", ["sqlite"], indirect=True)  # where one writer keeps all others out
async def test_activity_that_does_not_get_the_database_is_tried_again(database: str, tmp_path: Path) -> None:
    bodies["tea"] = put
    storage = SqliteStorage(database, lock_timeout=timedelta(milliseconds=20))
    async with App(storage) as app:
        await rows(app)  # makes the table
        with closing(sqlite3.connect(tmp_path / "test.db", isolation_level=None)) as other:

            async def body(db: Connection) -> str:
                if starts["tea"] > 1:
                    return await put(db)
                other.execute("BEGIN IMMEDIATE")
                try:
                    return await put(db)
                finally:
                    other.execute("ROLLBACK")

            bodies["tea"] = body
            assert await work(app, "tea") == ["done"]
        assert await rows(app) == ["tea"]
    assert starts == {"tea": 2}


async def test_connection_needs_a_transactional_activity(make_app: MakeApp) -> None:
    with pytest.raises(OutsideWorkflowError, match="transactional=True"):
        connection()
    async with make_app() as app:
        with pytest.raises(WorkflowFailedError, match="transactional=True"):
            await app.run(tx_connect_plainly())


def test_transactional_activity_must_be_async() -> None:
    with pytest.raises(DefinitionError, match="'tx_in_thread' is transactional and not an 'async def'"):

        @activity(transactional=True)
        def tx_in_thread() -> None: ...


def test_transaction_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="transaction_limit"):
        App("sqlite://", transaction_limit=timedelta(0))
