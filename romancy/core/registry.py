"""Which definitions have been imported, and which apps are open in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from romancy.errors import DefinitionError, NoAppError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from romancy.core.calls import Call
    from romancy.core.definitions import Activity, Workflow

R = TypeVar("R")


class Runner(Protocol):
    """An open app, as far as awaiting a workflow call needs it."""

    async def run(self, call: Call[R]) -> R:
        """Start the workflow and wait for its result."""
        ...


_workflows: dict[tuple[str, str], Workflow[..., object]] = {}
_activities: dict[str, Activity[..., object]] = {}
_open_apps: list[Runner] = []


def _check(
    taken: Workflow[..., object] | Activity[..., object] | None,
    new: Workflow[..., object] | Activity[..., object],
) -> None:
    """Refuse a second definition under a name.

    A module that is imported again may repeat its own, and functions made inside functions may repeat each other.
    """
    if taken is None:
        return
    old_place, new_place = (f"{d.fn.__module__}:{d.fn.__qualname__}" for d in (taken, new))
    if old_place != new_place and "<locals>" not in old_place + new_place:
        msg = f"{new_place} and {old_place} both take the name {new.name!r}: give one of them name=..."
        raise DefinitionError(msg)


def add_workflow(definition: Workflow[..., object]) -> None:
    """Register a workflow under its name and version."""
    key = (definition.name, definition.version)
    _check(_workflows.get(key), definition)
    _workflows[key] = definition


def add_activity(definition: Activity[..., object]) -> None:
    """Register an activity under its name."""
    _check(_activities.get(definition.name), definition)
    _activities[definition.name] = definition


def workflows() -> list[Workflow[..., object]]:
    """Return every workflow that has been imported, in that order."""
    return list(_workflows.values())


def find_workflow(name: str, version: str) -> Workflow[..., object] | None:
    """Return a workflow that has been imported, or None."""
    return _workflows.get((name, version))


def find_activity(name: str) -> Activity[..., object] | None:
    """Return an activity that has been imported, or None."""
    return _activities.get(name)


def app_opened(app: Runner) -> None:
    """Note that an app is open."""
    _open_apps.append(app)


def app_closed(app: Runner) -> None:
    """Note that an app is closed."""
    _open_apps.remove(app)


def opened() -> list[Runner]:
    """Return the apps that are open."""
    return list(_open_apps)


def reset_opened(apps: Iterable[Runner]) -> None:
    """Note that these apps are open, and no others: what was left open in a simulation that broke is not."""
    _open_apps[:] = apps


def the_open_app(workflow: str) -> Runner:
    """Return the one app that is open.

    Raises:
        NoAppError: None is open, or several are.
    """
    if len(_open_apps) == 1:
        return _open_apps[0]
    if not _open_apps:
        msg = f"workflow {workflow!r} was awaited while no App is open: use 'async with App(...)' around it"
    else:
        msg = f"workflow {workflow!r} was awaited while {len(_open_apps)} Apps are open: use 'await app.run(...)'"
    raise NoAppError(msg)
