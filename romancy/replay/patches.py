"""Four small patches for what does not pass through the loop; inert on other loops.

- `asyncio.gather` makes its own future: it gets a hash of the run.
- anyio's cancel scopes keep their children in a set: on the replay loop it keeps the order of insertion.
- `anyio.to_thread.run_sync` starts its thread past `loop.run_in_executor`: it is refused in workflow code.
- Python warns of coroutines that were never awaited: while a run leaves memory, `gather` in a ``finally`` is refused
  at its first one, and the others are nobody's mistake.

Each has a test that fails when a release of the library changes what is patched.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from asyncio import tasks
from typing import Any, cast

from romancy.core.calls import current_run
from romancy.errors import NotInWorkflowError
from romancy.replay.futures import OrderedIdentitySet

GatheringFuture: Any = cast("Any", tasks)._GatheringFuture


class _Delivery:
    """anyio's function that delivers a cancellation, and does so again at every tick; once anyio is patched."""

    def __init__(self) -> None:
        self.function: Any = ()  # no callback has that for its function


DELIVERY = _Delivery()


def _hash_gathering(self: Any) -> int:
    run: Any = getattr(self._loop, "romancy_run", None)
    if run is None:
        return object.__hash__(self)
    if not hasattr(self, "romancy_hash"):
        loop = self._loop
        loop.last_hash = self.romancy_hash = loop.last_hash + 1
    found: int = self.romancy_hash
    return found


def _patch_anyio() -> None:
    backend: Any = importlib.import_module("anyio._backends._asyncio")
    scope = backend.CancelScope
    plain_init = scope.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain_init(self, *args, **kwargs)
        if current_run() is not None:
            self._child_scopes = OrderedIdentitySet()

    plain_run = backend.AsyncIOBackend.run_sync_in_worker_thread

    def run_sync_in_worker_thread(func: Any, *args: Any, **kwargs: Any) -> Any:
        if current_run() is not None:
            name = getattr(func, "__qualname__", repr(func))
            msg = f"anyio.to_thread.run_sync({name}) in a workflow: put it in an activity"
            raise NotInWorkflowError(msg)
        return plain_run(func, *args, **kwargs)

    scope.__init__ = init
    backend.AsyncIOBackend.run_sync_in_worker_thread = staticmethod(run_sync_in_worker_thread)
    DELIVERY.function = scope._deliver_cancellation


def _patch_warnings() -> None:
    plain_warn: Any = getattr(warnings, "_warn_unawaited_coroutine", None)
    if plain_warn is None:
        return

    def warn_unawaited_coroutine(coro: object) -> None:
        run = current_run()
        if run is None or not run.is_poisoned:
            plain_warn(coro)

    cast("Any", warnings)._warn_unawaited_coroutine = warn_unawaited_coroutine


def install() -> None:
    """Apply the patches, once in a process."""
    if GatheringFuture.__hash__ is _hash_gathering:
        return
    GatheringFuture.__hash__ = _hash_gathering
    _patch_warnings()
    if "anyio" in sys.modules or importlib.util.find_spec("anyio") is not None:
        _patch_anyio()
