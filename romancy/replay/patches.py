"""Three small patches of asyncio and anyio for objects that don't pass through the loop; inert on other loops.

- `asyncio.gather` makes its own future: it gets a hash of the run.
- anyio's cancel scopes keep their children in a set: on the replay loop it keeps the order of insertion.
- `anyio.to_thread.run_sync` starts its thread past `loop.run_in_executor`: it is refused in workflow code.

Each has a test that fails when a release of the library changes what is patched.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from asyncio import tasks
from typing import Any

from romancy.core.calls import current_run
from romancy.errors import NotInWorkflowError
from romancy.replay.futures import OrderedIdentitySet

GatheringFuture: Any = tasks._GatheringFuture  # type: ignore[attr-defined]


class _Deliveries:
    """anyio's re-delivery of a cancellation, once anyio is patched."""

    function: Any = None
    code: Any = None


def is_anyio_delivery(callback: object) -> bool:
    """Tell whether a callback is anyio's, by which it delivers a cancellation again at every tick."""
    return _Deliveries.function is not None and getattr(callback, "__func__", None) is _Deliveries.function


def is_anyio_delivery_frame(frame: types.FrameType) -> bool:
    """Tell whether a frame is anyio's delivery, queueing itself again."""
    return frame.f_code is _Deliveries.code


def _hash_gathering(self: Any) -> int:
    run: Any = getattr(self._loop, "romancy_run", None)
    if run is None:
        return object.__hash__(self)
    state = self.__dict__
    if "romancy_hash" not in state:
        state["romancy_hash"] = self._loop.next_hash()
    found: int = state["romancy_hash"]
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
    _Deliveries.function = scope._deliver_cancellation
    _Deliveries.code = scope._deliver_cancellation.__code__


def install() -> None:
    """Apply the patches, once in a process."""
    if GatheringFuture.__hash__ is _hash_gathering:
        return
    GatheringFuture.__hash__ = _hash_gathering
    if "anyio" in sys.modules or importlib.util.find_spec("anyio") is not None:
        _patch_anyio()
