"""The order of workflow versions."""

from __future__ import annotations

import re
from typing import TypeAlias

_NUMBERS = re.compile(r"([0-9]+)")

VersionKey: TypeAlias = tuple[list[str | int], str]


def version_key(version: str) -> VersionKey:
    """Return what versions are compared by: natural order.

    Runs of digits count as numbers and the rest as text: ``"9" < "10"``, ``"1.9" < "1.10"``, ``"v2" < "v10"``. What
    goes on is newer than what ends: ``"2" < "2.1"``, and so ``"2" < "2-beta"`` too.
    """
    # Text and numbers take turns, so that one is never compared with the other.
    parts = [int(part) if index % 2 else part for index, part in enumerate(_NUMBERS.split(version))]
    while parts and parts[-1] == "":
        parts.pop()
    return parts, version
