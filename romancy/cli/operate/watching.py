"""``romancy watch``."""

from __future__ import annotations

import msgspec

from romancy.cli.operate.connecting import Json, Url, run
from romancy.cli.operate.printing import time_of
from romancy.client.client import Client


def watch(id: str, /, *, url: Url, json: Json = False) -> int:
    """Print how an instance stands, now and whenever its status, run, custom status or tags change, until it ends.

    With --json each line is an object: the instance.

    Args:
        id: The instance's id.
    """

    async def work(client: Client) -> int:
        async for info in (await client.get(id)).watch():
            if json:
                print(msgspec.json.encode(info).decode(), flush=True)
                continue
            told = [time_of(info.closed_at) if info.closed_at else "", info.status.replace("_", " ")]
            if info.run:
                told.append(f"run {info.run}")
            if info.custom_status is not None:
                told.append(msgspec.json.encode(info.custom_status).decode())
            print("  ".join(each for each in told if each), flush=True)
        return 0

    return run(url, work)
