"""A person approves in a web page what a workflow waits for; nobody's answer in time is an answer too.

Run it: python examples/fastapi_approval.py
Serve it: DATABASE=sqlite:///expenses.db uvicorn --app-dir examples fastapi_approval:service
"""

from __future__ import annotations

import asyncio
import os
from typing import Literal

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from romancy import App, Channel, activity, set_custom_status, workflow
from romancy.integrations.fastapi import WorkflowsDep, lifespan


class Expense(BaseModel):
    who: str
    euros: int


class Decision(BaseModel):
    by: str
    verdict: Literal["granted", "refused"]


decisions = Channel("decisions", Decision)
PATIENCE = float(os.environ.get("PATIENCE", "0.5"))  # a week, rather


@activity
async def pay(expense: Expense) -> str:
    return f"{expense.who} gets {expense.euros} euros"


@workflow
async def reimburse(expense: Expense) -> str:
    set_custom_status("waits for a decision")
    try:
        async with asyncio.timeout(PATIENCE):
            decision = await decisions.receive()
    except TimeoutError:
        return f"{expense.who} gets nothing: nobody has decided"
    return await pay(expense) if decision.verdict == "granted" else f"{decision.by} has refused"


app = App(os.environ.get("DATABASE", "sqlite://"))
service = FastAPI(lifespan=lifespan(app))


@service.post("/expenses/{id}")
async def hand_in(id: str, expense: Expense, workflows: WorkflowsDep) -> str:
    return (await workflows.start(reimburse(expense), id=id, on_conflict="attach")).id


@service.get("/to-decide")
async def to_decide(workflows: WorkflowsDep) -> list[str]:
    return [info.id for info in await workflows.list(status="running", custom_status="waits for a decision")]


@service.post("/expenses/{id}/decision")
async def decide(id: str, decision: Decision, workflows: WorkflowsDep) -> None:
    await workflows.send(
        decisions, decision, to=id, message_id=f"decision by {decision.by}"
    )  # a double click counts once


@service.get("/expenses/{id}")
async def outcome(id: str, workflows: WorkflowsDep) -> str:
    return str(await (await workflows.get(id)).result())


if __name__ == "__main__":
    with TestClient(service) as client:
        for id, who, euros in (("1", "Ann", 12), ("2", "Bo", 3_000), ("3", "Cleo", 7)):
            client.post(f"/expenses/{id}", json={"who": who, "euros": euros})
        while len(client.get("/to-decide").json()) < 3:
            pass
        client.post("/expenses/1/decision", json={"by": "Ines", "verdict": "granted"})
        client.post("/expenses/2/decision", json={"by": "Ines", "verdict": "refused"})
        print([client.get(f"/expenses/{id}").json() for id in "123"])
