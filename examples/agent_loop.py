"""An agent: a model that chooses tools until it has an answer. What it has thought and done is never paid for twice.

Run it: python examples/agent_loop.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec

from romancy import App, RetryPolicy, activity, set_custom_status, workflow


class ToolCall(msgspec.Struct):
    tool: str
    argument: str


class Reply(msgspec.Struct):
    text: str = ""
    calls: list[ToolCall] = []


thoughts: list[int] = []


@activity(timeout=timedelta(minutes=2), retry=RetryPolicy(initial_interval=timedelta(milliseconds=10)))
async def think(conversation: list[str]) -> Reply:
    """Ask a model; this one is a stub that fails once, as services do."""
    thoughts.append(len(conversation))
    if len(thoughts) == 2:
        raise ConnectionError("the model is overloaded")
    if len(conversation) == 1:
        return Reply(calls=[ToolCall("weather", "Graz"), ToolCall("weather", "Linz")])
    return Reply(text="Take an umbrella to " + " and ".join(line.split()[0] for line in conversation if "rain" in line))


@activity
async def weather(town: str) -> str:
    return f"{town} {'rain' if town == 'Linz' else 'sun'}"


TOOLS = {"weather": weather}


@workflow
async def agent(question: str) -> str:
    conversation = [question]
    for turn in range(10):
        set_custom_status({"turn": turn + 1})
        reply = await think(conversation)
        if not reply.calls:
            return reply.text
        conversation += await asyncio.gather(*(TOOLS[call.tool](call.argument) for call in reply.calls))
    raise RuntimeError("the agent comes to no end")


async def main() -> None:
    async with App("sqlite://", hot_limit=0) as app:  # it leaves memory whenever it waits
        handle = await app.start(agent("Where do I need an umbrella?"))
        print(await handle.result())
        print([event.activity_id for event in await handle.history() if event.kind == "activity_completed"])
        print("the model was asked", len(thoughts), "times, once in vain")


if __name__ == "__main__":
    asyncio.run(main())
