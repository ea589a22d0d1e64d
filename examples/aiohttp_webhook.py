"""An aiohttp service: a workflow waits for a payment provider's webhook, which may come twice.

Run it: python examples/aiohttp_webhook.py; serve it: python -m aiohttp.web -P 8080 aiohttp_webhook:service
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from romancy import App, Channel, activity, uuid4, workflow
from romancy.integrations.aiohttp import APP, setup

payments = Channel("payments", int)


@activity
async def ship(order: str) -> str:
    return f"{order} is on its way"


@workflow
async def sell(order: str, price: int) -> dict[str, str]:
    paid = 0
    while paid < price:
        paid += await payments.receive()
    return {"outcome": await ship(order), "receipt": str(uuid4())}


async def webhook(request: web.Request) -> web.Response:
    event = await request.json()  # repeated by the provider if it is not answered: its id makes it count once
    await request.app[APP].send(payments, int(event["amount"]), to=event["order"], message_id=event["id"])
    return web.Response(status=204)


async def order(request: web.Request) -> web.Response:
    call = sell(request.match_info["id"], 100)
    return web.json_response(await request.app[APP].run(call, id=request.match_info["id"]))


def service(arguments: list[str] | None = None) -> web.Application:
    made = web.Application()
    setup(made, App(arguments[0] if arguments else "sqlite://"), authorize="open", prefix="/durable")
    made.add_routes([web.post("/webhook", webhook), web.post("/orders/{id}", order)])
    return made


async def main() -> None:
    async with TestClient(TestServer(service())) as client:
        await client.post("/durable/workflows/sell?id=flute", json={"order": "flute", "price": 100})
        for event in ("e1", "e1", "e2"):
            await client.post("/webhook", json={"id": event, "order": "flute", "amount": 50})
        print((await (await client.post("/orders/flute")).json())["outcome"])


if __name__ == "__main__":
    asyncio.run(main())
