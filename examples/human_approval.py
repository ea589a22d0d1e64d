"""Wait for a person: a message on a channel, or no answer in time.

Run it: python examples/human_approval.py
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from romancy import App, Channel, activity, workflow


@dataclass(frozen=True)
class Approval:
    by: str
    is_granted: bool


approvals = Channel("approvals", Approval)


@activity
async def publish(document: str) -> str:
    return f"{document} is published"


@workflow
async def review(document: str, patience: float) -> str:
    try:
        async with asyncio.timeout(patience):  # a durable timer: it may be weeks
            approval = await approvals.receive()
    except TimeoutError:
        return f"{document} is put aside: nobody has answered"
    if not approval.is_granted:
        return f"{document} is refused by {approval.by}"
    return await publish(document)


async def main() -> None:
    async with App("sqlite://") as app:
        report = await app.start(review("report", 3600.0), id="report")
        poem = await app.start(review("poem", 3600.0), id="poem")
        novel = await app.start(review("novel", 0.1), id="novel")
        await app.send(approvals, Approval("Ines", is_granted=True), to="report")
        await app.send(approvals, Approval("Ines", is_granted=False), to="poem")
        for handle in (report, poem, novel):
            print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
