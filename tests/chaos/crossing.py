"""Instances that send to those of another process, and are sent to by them: ``crossing.py URL IDS PEERS ROUNDS``."""

from __future__ import annotations

import asyncio
import json
import sys

from romancy import App, Channel, workflow

starts = Channel("crossing_starts", bool)
balls = Channel("crossing_balls", int)


@workflow
async def crossing_play(peers: list[str], rounds: int) -> int:
    """Send a ball to every peer, all by one commit, and take one from each, again and again."""
    await starts.receive()
    total = 0
    for _ in range(rounds):
        await asyncio.gather(*(balls.send(1, to=peer) for peer in peers))
        for _ in peers:
            total += await balls.receive()
    return total


async def main() -> None:
    url, ids, peers, rounds = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
    async with App(url) as app:
        handles = [await app.start(crossing_play(peers, rounds), id=id) for id in ids]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        for id in ids:
            await app.send(starts, message=True, to=id)
        print(json.dumps([await handle.result() for handle in handles]), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
