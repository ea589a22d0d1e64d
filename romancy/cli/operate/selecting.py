"""Which instances a command is for: one by its id, or all that a filter admits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from romancy.client.bulk import Matching
from romancy.client.client import Client

STATUSES = "pending, running, paused, blocked, completed, failed, cancelled, terminated, timed_out"
Tags = Annotated[tuple[str, ...], Parameter(negative=(), help="A tag that it must have, as name:value.")]


def tags_of(given: tuple[str, ...]) -> Mapping[str, str]:
    """Return tags by name.

    Raises:
        ValueError: One of them has no value.
    """
    found: dict[str, str] = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon:
            msg = f"--tag {each!r} must be a tag and its value, such as customer:7"
            raise ValueError(msg)
        found[name] = value
    return found


@Parameter(name="*")
@dataclass
class Filter:
    """Instead of an id: all instances that fit.

    Attributes:
        workflow: Only those of this workflow.
        status: Only those with this status.
        id_prefix: Only those whose id begins so.
        tag: A tag that they must have, as name:value.
        after: Only those after this cursor: where an interrupted command had come to.
        all: All instances; needed where no other filter is given.
    """

    workflow: str | None = None
    status: str | None = None
    id_prefix: str | None = None
    tag: Tags = ()
    after: str | None = None
    all: Annotated[bool, Parameter(negative=())] = False

    def is_given(self) -> bool:
        """Tell whether anything of it is given."""
        return self.all or any((self.workflow, self.status, self.id_prefix, self.tag, self.after))

    def of(self, client: Client) -> Matching:
        """Return the instances.

        Raises:
            ValueError: The filter can't be used; the message says why.
        """
        return client.matching(
            workflow=self.workflow,
            status=self.status,
            id_prefix=self.id_prefix,
            tags=tags_of(self.tag),
            after=self.after,
        )


def check_one_of(id: str | None, where: Filter | None, command: str) -> None:
    """Raise unless either an id is given or a filter.

    Raises:
        ValueError: Both are, or neither.
    """
    is_filtered = where is not None and where.is_given()
    if id is None and not is_filtered:
        msg = f"{command} needs an id; or a filter, such as --workflow or --tag; or --all"
        raise ValueError(msg)
    if id is not None and is_filtered:
        msg = f"{command} takes an id or a filter, not both: {id!r} was given, and a filter"
        raise ValueError(msg)
