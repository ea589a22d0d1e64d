"""``romancy worker``."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import signal
import sys

from romancy.app import App
from romancy.cli.operate.connecting import UNUSABLE, told
from romancy.errors import RomancyError

_logger = logging.getLogger("romancy")


class UnusableError(Exception):
    """There is no App to run; the message says why."""


def worker(place: str) -> int:
    """Open an App, and execute its instances until SIGTERM or Ctrl-C.

    Activities that run are then let end within the App's grace time, and everything is handed back. Twice the signal
    ends the process.

    Args:
        place: The App, as `module:name`: `shop.service:workflows`.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_work(app_at(place)))
    except (RomancyError, OSError, UnusableError) as exc:
        print(told(exc), file=sys.stderr)
        return UNUSABLE
    return 0


async def _work(app: App) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        stopped.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    with contextlib.suppress(NotImplementedError):  # not on Windows, where Ctrl-C alone ends it
        for number in numbers:
            loop.add_signal_handler(number, stop)
    async with app:
        _logger.info("working on %s", app.url if isinstance(app.url, str) and "@" not in app.url else "its database")
        await stopped.wait()


def app_at(place: str) -> App:
    """Return the App that ``module:name`` names.

    Raises:
        UnusableError: There is none.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise UnusableError(f"{place!r} names no App: give the module and the name, such as shop.service:workflows")
    sys.path.insert(0, "")  # as ``python -m`` does
    try:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        raise UnusableError(f"{place!r} can't be imported: {exc}") from exc
    if not isinstance(found, App):
        raise UnusableError(f"{place!r} is no App, but a {type(found).__name__}")
    return found
