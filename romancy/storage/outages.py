"""What is said in the log while a database can't be reached."""

from __future__ import annotations

import logging
import time

_logger = logging.getLogger("romancy")
_REPEAT = 60.0
"""Seconds between two lines on one outage."""


class Outages:
    """Say once that an outage has begun, now and then that it goes on, and once that it is over.

    Args:
        name: Names the database.

    Attributes:
        cause: Why the database could not be reached when that was last tried; None: it could.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.cause: BaseException | None = None
        self._since: float | None = None
        self._said = 0.0

    def failed(self, error: BaseException) -> None:
        """Note that the database could not be reached, or has broken off."""
        self.cause = error
        now = time.monotonic()
        if self._since is None:
            self._since = self._said = now
            _logger.warning("%s: lost: %s; trying again until it is back", self._name, explain(error))
        elif now - self._said >= _REPEAT:
            self._said = now
            _logger.warning("%s: lost for %.0f s: %s", self._name, now - self._since, explain(error))

    def succeeded(self) -> None:
        """Note that the database has answered."""
        self.cause = None
        if self._since is not None:
            _logger.warning("%s: back after %.1f s", self._name, time.monotonic() - self._since)
            self._since = None


def explain(error: BaseException) -> str:
    """Say what an error is; some have no text of their own."""
    return f"{error}" or type(error).__name__
