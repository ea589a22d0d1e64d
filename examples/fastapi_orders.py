"""A FastAPI service: a request places an order and waits for it, another approves it.

Run it: python examples/fastapi_orders.py
Serve it: DATABASE=sqlite:///orders.db uvicorn --app-dir examples fastapi_orders:service
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from romancy import App, Channel, activity, uuid4, workflow
from romancy.integrations.fastapi import WorkflowsDep, lifespan, router


class Order(BaseModel):
    item: str
    amount: int


approvals = Channel("approvals", bool)


@activity
async def charge(order: Order) -> str:
    return f"{order.amount} charged for {order.item}"


@workflow
async def fulfil(order: Order) -> dict[str, str]:
    charged = await charge(order)
    if order.amount > 1_000 and not await approvals.receive():
        return {"outcome": "refused"}
    return {"outcome": charged, "receipt": str(uuid4())}


app = App(os.environ.get("DATABASE", "sqlite://"))
service = FastAPI(lifespan=lifespan(app))
service.include_router(router(app, authorize="open", channels=[approvals]), prefix="/durable")


@service.post("/orders/{id}")
async def place(id: str, order: Order, workflows: WorkflowsDep) -> dict[str, str]:
    return await workflows.run(fulfil(order), id=id)  # the same id again: the same order


if __name__ == "__main__":
    with TestClient(service) as client:
        print(client.post("/orders/1", json={"item": "a flute", "amount": 300}).json()["outcome"])
        print(
            client.post("/durable/workflows/fulfil?id=2", json={"order": {"item": "a piano", "amount": 9_000}}).json()
        )
        print(client.get("/durable/instances/2/result?timeout=0.2").json())
        client.post("/durable/instances/2/messages/approvals", json=True)
        print(client.get("/durable/instances/2/result?timeout=10").json()["result"]["outcome"])
        print(client.post("/durable/workflows/fulfil", json={"order": {"item": "a drum"}}).json()["title"])
