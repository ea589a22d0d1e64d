"""The schema, as numbered steps. A step that was released never changes; what comes after it is a new one."""

from __future__ import annotations

from importlib import resources
from typing import Literal, NamedTuple


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    name: str
    script: str


def load(database: Literal["sqlite", "postgres"]) -> list[Migration]:
    """Read the steps that this romancy knows, in their order."""
    files = (file for file in resources.files(__name__).joinpath(database).iterdir() if file.name.endswith(".sql"))
    steps = (
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text(encoding="utf-8"))
        for file in files
    )
    return sorted(steps)
