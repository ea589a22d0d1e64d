"""Changing a workflow's code while runs of it are under way."""

from __future__ import annotations

from typing import cast

from romancy.errors import DefinitionError
from romancy.replay.context import current_execution

_LONGEST_ID = 200


def patched(id: str) -> bool:
    """Tell whether this run takes a change of the workflow's code.

    ::

        if patched("greet-by-name"):
            await greet(customer)
        else:
            await greet_all()

    The first answer in a run holds for the whole run. A run that gets here for the first time on its own takes the new
    path: that is recorded, and every replay takes it again. A run that went by here with the old code keeps the old
    path. A run of which nothing is recorded yet has gone by if a worker of another build (``App(build=...)``) began it:
    its first activity may be under way.

    The call takes no position: the ids of later operations stay as they are, whether it is there or not. It must stay
    until every run that has recorded it has ended. The else branch can go when the runs that began without it have.

    Args:
        id: Names the change; each change of a workflow has its own.

    Raises:
        DefinitionError: Nothing can be called so.
        OutsideWorkflowError: No workflow runs here.
    """
    given = cast("object", id)
    if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_ID or not given.isprintable():
        msg = f"{id!r} can't name a patch: use 1 to {_LONGEST_ID} printable characters"
        raise DefinitionError(msg)
    return current_execution("patched()").patching.is_taken(given)
