"""CloudEvents: one starts a workflow, the next is a message to it, and a repeated one does nothing.

Run it: python examples/cloud_events.py
"""

from __future__ import annotations

from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent
from starlette.applications import Starlette
from starlette.testclient import TestClient

from romancy import App, Channel, workflow
from romancy.integrations.cloud_events import Sends, Starts
from romancy.integrations.starlette import cloud_events, lifespan, routes

parcels = Channel("parcels", str)


@workflow
async def track(order: str) -> str:
    return f"{order}: {await parcels.receive()}, {await parcels.receive()}"


app = App("sqlite://")
routing = [
    Starts("com.example.order.placed", track, id=lambda event: event.get_subject() or ""),
    Sends("com.example.parcel.*", parcels),  # to the instance that is the event's subject
]
service = Starlette(
    routes=[cloud_events("/events", app, routing, authorize="open"), *routes(app, authorize="open")],
    lifespan=lifespan(app),
)


def event(id: str, type: str, data: str) -> CloudEvent:
    return CloudEvent({"id": id, "source": "/shop", "type": f"com.example.{type}", "subject": "order-7"}, data)


if __name__ == "__main__":
    with TestClient(service) as client:
        for sent in (
            event("1", "order.placed", "a flute"),
            event("1", "order.placed", "a flute"),
            event("2", "parcel.packed", "packed"),
            event("2", "parcel.packed", "packed"),
            event("3", "parcel.sent", "sent"),
            event("4", "invoice.paid", "paid"),
        ):
            message = to_structured_event(sent)
            reply = client.post("/events", content=message.body, headers=message.headers)
            print(sent.get_id(), reply.status_code)
        print(client.get("/instances/order-7/result?timeout=10").json()["result"])
