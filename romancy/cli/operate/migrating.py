"""``romancy migrate``."""

from __future__ import annotations

import asyncio

from romancy.cli.operate.connecting import Json, Url, one_line
from romancy.cli.operate.printing import print_json
from romancy.storage.urls import storage_at


def migrate(*, url: Url, check: bool = False, json: Json = False) -> int:
    """Bring a database's schema up to date, or make it, as an App does when it is opened.

    For services that are opened with migrate=False, because they may not change tables.

    Args:
        check: Change nothing; the exit status is 2 if the schema is not what this romancy needs.
    """

    async def work() -> int:
        storage = storage_at(url)
        await storage.open(migrate=not check)
        await storage.close()
        if json:
            print_json({"is_up_to_date": True})
        else:
            print("the schema is up to date")
        return 0

    return one_line(lambda: asyncio.run(work()))
