"""Naming the code that is deployed."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.core.definitions import Workflow


@functools.cache
def runtime() -> str:
    """Return what decides the order in which code goes on, besides the code: a replay is promised only on the same."""
    version = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
    return f"{version}, anyio {importlib.metadata.version('anyio')}"


def build_of(definitions: Iterable[Workflow[..., object]]) -> str:
    """Return a digest of the source files that define the workflows.

    Another digest means that a blocked instance is worth another try. A change in a module that they only import
    does not show: name the build yourself then (``App(build=...)``), for example by the commit.
    """
    files = {
        str(getattr(sys.modules.get(definition.fn.__module__), "__file__", None) or definition.fn.__code__.co_filename)
        for definition in definitions
    }
    digest = blake2b(digest_size=8)
    for file in sorted(files):
        path = Path(file)
        digest.update(path.read_bytes() if path.is_file() else file.encode())
    return digest.hexdigest()
