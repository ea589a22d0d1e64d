"""The routes, the same in every framework."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from romancy import App

from .service import (
    BODY_LIMIT,
    TOKEN,
    Approval,
    Order,
    approvals,
    charged,
    client_of,
    fulfil,
    make_app,
    quick,
)

pytestmark = pytest.mark.anyio

ORDER = {"order": {"id": "7", "amount": 30}}
JSON = {"content-type": "application/json"}


async def start(client: httpx.AsyncClient, id: str = "one", body: Any = None) -> None:
    reply = await client.post("/flow/workflows/http_order", params={"id": id}, json=body or ORDER)
    assert (reply.status_code, reply.json()) == (201, {"id": id})


async def count(app: App) -> int:
    return len(await app.list(limit=1000))


def problem(reply: httpx.Response) -> tuple[int, str]:
    """Return a problem document's status and kind; it must be one."""
    assert reply.headers["content-type"] == "application/problem+json", reply.text
    document = reply.json()
    assert set(document) == {"type", "title", "status", "detail"}
    assert document["status"] == reply.status_code
    return reply.status_code, document["type"].partition("/reference/problems.html#")[2]


async def test_workflow_is_started_messaged_and_ends(client: httpx.AsyncClient) -> None:
    await start(client, "one")
    going_on = await client.get("/flow/instances/one/result")
    assert (going_on.status_code, going_on.json()) == (202, {"id": "one", "status": "running"})
    assert "retry-after" in going_on.headers
    sent = await client.post("/flow/instances/one/messages/http.approvals", json={"granted": True})
    assert (sent.status_code, sent.content) == (204, b"")
    done = await client.get("/flow/instances/one/result", params={"timeout": 10})
    assert done.status_code == 200
    assert done.json() == {
        "id": "one",
        "status": "completed",
        "result": {"paid": 30, "granted": True, "gift": False},
    }
    again = await client.get("/flow/instances/one/result")
    assert again.json() == done.json()


async def test_started_instance_is_where_its_location_says(client: httpx.AsyncClient) -> None:
    reply = await client.post("/flow/workflows/http_order", json={**ORDER, "gift": True}, params={"id": "a/b c"})
    assert reply.status_code == 201
    found = await client.get(str(reply.url.join(reply.headers["location"])))
    assert (found.status_code, found.json()["id"]) == (200, "a/b c")
    sent = await client.post("/flow/instances/a%2Fb%20c/messages/http.approvals", json={"granted": False})
    assert sent.status_code == 204
    done = await client.get("/flow/instances/a%2Fb%20c/result", params={"timeout": 10})
    assert done.json()["result"] == {"paid": 30, "granted": False, "gift": True}


async def test_result_is_waited_for_until_it_comes(client: httpx.AsyncClient, app: App) -> None:
    await start(client)
    waiting = asyncio.create_task(client.get("/flow/instances/one/result", params={"timeout": 15}))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await app.send(approvals, Approval(granted=True), to="one")
    assert (await waiting).json()["status"] == "completed"


async def test_result_of_what_does_not_end_is_202_after_the_timeout(client: httpx.AsyncClient) -> None:
    await start(client)
    reply = await client.get("/flow/instances/one/result", params={"timeout": 0.05})
    assert (reply.status_code, reply.json()["status"]) == (202, "running")


@pytest.mark.parametrize("timeout", [0, 5])
async def test_result_of_a_failed_and_of_a_blocked_instance(client: httpx.AsyncClient, timeout: int) -> None:
    for name in ("http_fails", "http_bug"):
        assert (await client.post(f"/flow/workflows/{name}", params={"id": name})).status_code == 201
    failed = await client.get("/flow/instances/http_fails/result", params={"timeout": 5})
    assert (failed.status_code, failed.json()) == (
        200,
        {"id": "http_fails", "status": "failed", "failure": {"type": "ValueError", "message": "it can't be done"}},
    )
    while (await client.get("/flow/instances/http_bug")).json()["status"] != "blocked":
        await asyncio.sleep(0.005)
    blocked = await client.get("/flow/instances/http_bug/result", params={"timeout": timeout})
    assert (blocked.status_code, blocked.json()["status"]) == (202, "blocked")
    assert "a programming error" in blocked.json()["failure"]["message"]
    assert "Traceback" not in (await client.get("/flow/instances/http_bug")).text


async def test_cancelled_instance(client: httpx.AsyncClient) -> None:
    await start(client)
    reply = await client.post("/flow/instances/one/cancel", json={"reason": "changed my mind", "grace": 5})
    assert reply.status_code == 202
    done = await client.get("/flow/instances/one/result", params={"timeout": 10})
    assert (done.status_code, done.json()["status"]) == (200, "cancelled")
    again = await client.post("/flow/instances/one/cancel")
    assert problem(again) == (409, "instance-closed")


async def test_instance_and_history(client: httpx.AsyncClient, app: App) -> None:
    await start(client)
    while not (found := (await client.get("/flow/instances/one")).json())["waiting_on"]:
        await asyncio.sleep(0.005)
    assert (found["id"], found["workflow"], found["status"], found["failure"]) == ("one", "http_order", "running", None)
    assert found["waiting_on"][0]["channel"] == "http.approvals"
    events = (await client.get("/flow/instances/one/history")).json()
    assert [(event["kind"], event["activity_id"], event["payload"]) for event in events] == [
        ("activity_completed", "1:http_charge", 30)
    ]
    assert (await client.get("/flow/instances/one/history", params={"run": 0})).json() == events
    assert problem(await client.get("/flow/instances/one/history", params={"run": 3})) == (404, "unknown-instance")


async def test_listing_goes_on_page_by_page(client: httpx.AsyncClient) -> None:
    for number in range(5):
        params = {"id": f"n{number}", "tag": f"parity:{number % 2}"}
        await client.post("/flow/workflows/http_order", params=params, json=ORDER)
    first = (await client.get("/flow/instances", params={"limit": 3})).json()
    assert [each["id"] for each in first["instances"]] == ["n0", "n1", "n2"]
    second = (await client.get("/flow/instances", params={"limit": 3, "after": first["next"]})).json()
    assert ([each["id"] for each in second["instances"]], second["next"]) == (["n3", "n4"], None)
    odd = (await client.get("/flow/instances", params={"tag": "parity:1", "status": "running"})).json()
    assert [each["id"] for each in odd["instances"]] == ["n1", "n3"]
    none = (await client.get("/flow/instances", params={"workflow": "http_quick"})).json()
    assert none == {"instances": [], "next": None}
    assert len((await client.get("/flow/instances", params={"id_prefix": "n4"})).json()["instances"]) == 1


async def test_workflows_are_listed(client: httpx.AsyncClient) -> None:
    found = (await client.get("/flow/workflows")).json()
    assert {"name": "http_order", "version": "1"} in found


async def test_taken_id(client: httpx.AsyncClient, app: App) -> None:
    await start(client)
    url, params = "/flow/workflows/http_order", {"id": "one"}
    assert problem(await client.post(url, params=params, json=ORDER)) == (409, "instance-exists")
    attached = await client.post(url, params={**params, "on_conflict": "attach"}, json=ORDER)
    assert (attached.status_code, attached.json()) == (201, {"id": "one"})
    restarted = await client.post(url, params={**params, "on_conflict": "restart"}, json=ORDER)
    assert problem(restarted) == (409, "instance-running")
    assert await count(app) == 1


async def test_start_options(client: httpx.AsyncClient, app: App) -> None:
    params = {"id": "one", "delay": "60", "priority": "2", "timeout": "3600", "tag": "customer:7"}
    assert (await client.post("/flow/workflows/http_quick", params=params)).status_code == 201
    info = await (await app.get("one")).info()
    assert (info.status, info.priority, info.tags) == ("pending", 2, {"customer": "7"})
    assert info.deadline is not None
    params = {"id": "two", "start_at": "2999-01-01T00:00:00Z"}
    assert (await client.post("/flow/workflows/http_quick", params=params)).status_code == 201
    assert (await (await app.get("two")).status()) == "pending"


BAD_STARTS: list[tuple[str, dict[str, Any], tuple[int, str]]] = [
    ("http_order", {"content": b"{", "headers": JSON}, (400, "malformed-json")),
    ("http_order", {"content": b"\xff{}", "headers": JSON}, (400, "malformed-json")),
    ("http_order", {"content": b"[" * 1_500, "headers": JSON}, (400, "malformed-json")),
    ("http_order", {"content": b"id=7", "headers": {"content-type": "text/plain"}}, (415, "not-json")),
    ("http_order", {"content": b"{}"}, (415, "not-json")),
    ("http_order", {"json": {"order": {"id": 7, "amount": 30}}}, (422, "invalid-body")),
    ("http_order", {"json": {"order": {"id": "7"}}}, (422, "invalid-body")),
    ("http_order", {"json": {**ORDER, "gift": "yes"}}, (422, "invalid-body")),
    ("http_order", {"json": {**ORDER, "more": 1}}, (422, "invalid-body")),
    ("http_order", {"json": []}, (422, "invalid-body")),
    ("http_order", {}, (422, "invalid-body")),
    ("http_order", {"json": {"order": {"id": "7" * BODY_LIMIT, "amount": 1}}}, (413, "too-large")),
    ("nothing", {"json": {}}, (404, "unknown-workflow")),
    ("http_order", {"json": ORDER, "params": {"id": ""}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"id": "x" * 256}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"id": "a\x00b"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"priority": "9"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"priority": "high"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"delay": "-1"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"delay": "nan"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"delay": "1e300"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"delay": "1e308"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"timeout": "0"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"timeout": "1e300"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"start_at": "tomorrow"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"start_at": "2030-01-01T00:00:00"}}, (422, "invalid-parameter")),
    (
        "http_order",
        {"json": ORDER, "params": {"start_at": "2030-01-01T00:00:00Z", "delay": "1"}},
        (422, "invalid-parameter"),
    ),
    ("http_order", {"json": ORDER, "params": {"on_conflict": "ignore"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"tag": "nothing"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": {"tag": "a" * 65 + ":b"}}, (413, "too-large")),
    ("http_order", {"json": ORDER, "params": {"colour": "red"}}, (422, "invalid-parameter")),
    ("http_order", {"json": ORDER, "params": [("id", "a"), ("id", "b")]}, (422, "invalid-parameter")),
]


@pytest.mark.parametrize(("name", "request_", "expected"), BAD_STARTS)
async def test_bad_start_is_refused_and_nothing_is_stored(
    client: httpx.AsyncClient, app: App, name: str, request_: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert problem(await client.post(f"/flow/workflows/{name}", **request_)) == expected
    assert await count(app) == 0
    assert charged == []


async def test_bad_message_is_refused_and_nothing_is_sent(client: httpx.AsyncClient, app: App) -> None:
    await start(client)
    url = "/flow/instances/one/messages"
    bad: list[tuple[str, dict[str, Any], tuple[int, str]]] = [
        ("http.approvals", {"json": {"granted": "yes"}}, (422, "invalid-body")),
        ("http.approvals", {"content": b"{", "headers": JSON}, (400, "malformed-json")),
        ("http.approvals", {}, (415, "not-json")),
        ("http.approvals", {"content": b"", "headers": JSON}, (400, "malformed-json")),
        ("http.approvals", {"json": {"granted": True, "x": "y" * BODY_LIMIT}}, (413, "too-large")),
        ("http.nothing", {"json": 1}, (404, "unknown-channel")),
        ("http.approvals", {"json": {"granted": True}, "params": {"message_id": "\x00"}}, (422, "invalid-parameter")),
    ]
    for path, request, expected in bad:
        assert problem(await client.post(f"{url}/{path}", **request)) == expected
    unknown = await client.post("/flow/instances/nobody/messages/http.approvals", json={"granted": True})
    assert problem(unknown) == (404, "unknown-instance")
    info = await (await app.get("one")).info()
    assert (info.status, info.unread) == ("running", 0)


async def test_same_message_twice_is_one(client: httpx.AsyncClient, app: App) -> None:
    await start(client)
    for granted in (True, False):
        reply = await client.post(
            "/flow/instances/one/messages/http.approvals", json={"granted": granted}, params={"message_id": "m"}
        )
        assert reply.status_code == 204
    done = await client.get("/flow/instances/one/result", params={"timeout": 10})
    assert done.json()["result"]["granted"] is True


@pytest.mark.parametrize("suffix", ["", "/result", "/history"])
async def test_unknown_instance(client: httpx.AsyncClient, suffix: str) -> None:
    for id in ("nobody", "%00", "x" * 300, "%ff%fe"):
        assert problem(await client.get(f"/flow/instances/{id}{suffix}")) == (404, "unknown-instance")
    assert problem(await client.post("/flow/instances/nobody/cancel")) == (404, "unknown-instance")


@pytest.mark.parametrize(
    "params",
    [
        {"status": "lost"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "1.5"},
        {"after": "x"},
        {"after": "9" * 30},
        {"custom_status": "{"},
        {"tag": "x"},
        {"id_prefix": "a\x00"},
        {"colour": "red"},
        {"timeout": "1"},
    ],
)
async def test_bad_filter(client: httpx.AsyncClient, params: dict[str, str]) -> None:
    assert problem(await client.get("/flow/instances", params=params)) == (422, "invalid-parameter")


@pytest.mark.parametrize("body", [{"reason": 1}, {"grace": -1}, {"grace": "x"}, {"more": 1}, [], {"grace": 1e300}])
async def test_bad_cancel(client: httpx.AsyncClient, body: object) -> None:
    await start(client)
    assert problem(await client.post("/flow/instances/one/cancel", json=body)) == (422, "invalid-parameter")


async def test_bad_timeout_of_a_result(client: httpx.AsyncClient) -> None:
    await start(client)
    for timeout in ("61", "-1", "inf", "x"):
        reply = await client.get("/flow/instances/one/result", params={"timeout": timeout})
        assert problem(reply) == (422, "invalid-parameter")


async def test_without_credentials_nothing_but_health_is_served(framework: str, app: App) -> None:
    async with client_of(framework, app, is_open=False) as client:
        for method, path in (
            ("GET", "/flow/workflows"),
            ("POST", "/flow/workflows/http_order"),
            ("POST", "/flow/workflows/nothing"),
            ("GET", "/flow/instances"),
            ("GET", "/flow/instances/one"),
            ("GET", "/flow/instances/one/result"),
            ("GET", "/flow/instances/one/history"),
            ("POST", "/flow/instances/one/messages/http.approvals"),
            ("POST", "/flow/instances/one/cancel"),
            ("POST", "/events"),
        ):
            reply = await client.request(method, path, json=ORDER if method == "POST" else None)
            assert reply.status_code == 401, (method, path)
        assert await count(app) == 0
        assert (await client.get("/flow/health/live")).status_code == 200
        assert (await client.get("/flow/health/ready")).status_code == 200
        client.headers["authorization"] = TOKEN
        await start(client)


async def test_health_tells_of_a_lost_session_and_of_a_broken_database(
    client: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await client.get("/flow/health/ready")).json() == {"status": "ready"}
    assert app.worker is not None
    monkeypatch.setattr(app.worker._session, "is_live", lambda: False)
    lost = await client.get("/flow/health/ready")
    assert problem(lost) == (503, "database")
    assert "retry-after" in lost.headers
    await app.client.storage.close()
    assert problem(await client.get("/flow/health/ready"))[0] == 503
    assert problem(await client.get("/flow/instances/one"))[0] == 503
    assert (await client.get("/flow/health/live")).status_code == 200


@pytest.fixture
async def postgres_url(postgres: Any) -> AsyncIterator[str]:
    async with postgres.schema() as schema:
        yield f"{postgres.dsn}&schema={schema}"


async def test_the_same_on_postgresql(framework: str, postgres_url: str) -> None:
    app = make_app(postgres_url)
    async with client_of(framework, app) as client:
        await start(client)
        for path in ("/flow/instances/%00", "/flow/instances/nobody"):
            assert problem(await client.get(path)) == (404, "unknown-instance")
        for params in ({"workflow": "a\x00"}, {"tag": "a:\x00"}, {"id_prefix": "\x00"}):
            assert problem(await client.get("/flow/instances", params=params))[0] == 422
        bad = {"order": {"id": "\x00", "amount": 1}}
        assert (await client.post("/flow/workflows/http_order", json=bad)).status_code == 201
        await client.post("/flow/instances/one/messages/http.approvals", json={"granted": True})
        done = await client.get("/flow/instances/one/result", params={"timeout": 10})
        assert done.json()["status"] == "completed"


async def test_typed_calls_and_the_routes_see_the_same_instances(client: httpx.AsyncClient, app: App) -> None:
    await app.start(fulfil(Order("7", 5)), id="typed")
    assert await app.run(quick("word")) == "word"
    assert (await client.get("/flow/instances/typed")).status_code == 200
    await client.post("/flow/instances/typed/messages/http.approvals", json={"granted": True})
    assert (await (await app.get("typed")).result())["paid"] == 5
