"""What may be an instance's id."""

from __future__ import annotations

from typing import Final

LONGEST_ID: Final = 255
"""In characters."""


def check_instance_id(id: str) -> None:
    """Raise `ValueError` if a text can't be an instance's id."""
    if not id or len(id) > LONGEST_ID or not id.isprintable():
        msg = f"{id!r} can't be an instance's id: use 1 to {LONGEST_ID} printable characters"
        raise ValueError(msg)
