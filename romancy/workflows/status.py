"""What a run shows of itself to clients while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.shown import check_tags, encode_custom_status
from romancy.replay.context import current_execution

if TYPE_CHECKING:
    from collections.abc import Mapping


def set_custom_status(value: object) -> None:
    """Show a value to clients: `InstanceInfo.custom_status`, which `Client.list` can filter by.

    It is written with whatever else the workflow does up to its next wait, all or nothing, and stays until it is set
    again, also after the run's end and across `recur`. It is no part of the history: a replay does not write it again.

    Args:
        value: Anything that can be an activity's argument, up to 16 KiB encoded; clients read it as plain JSON.
            None: nothing.

    Raises:
        CodecError: The value can't be encoded.
        PayloadTooLargeError: It is too large.
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("set_custom_status()")
    execution.showing.show_custom_status(encode_custom_status(execution.codec, value, "set_custom_status()"))


def set_tags(tags: Mapping[str, str | None]) -> None:
    """Set tags, by which `Client.list` finds instances: ``set_tags({"customer": "42"})``.

    A tag that is named gets the new value, or is removed where that is None; the others stay as they are, those of
    `App.start` too. Tags are written with whatever else the workflow does up to its next wait, all or nothing, and stay
    across `recur`. They are no part of the history: a replay does not write them again.

    Args:
        tags: Values by name: printable characters, 1 to 64 in a name and at most 256 in a value. A run can set at most
            32 different tags.

    Raises:
        CodecError: They are no printable strings.
        PayloadTooLargeError: They are too many, or one is too long.
        OutsideWorkflowError: No workflow runs here.
    """
    execution = current_execution("set_tags()")
    execution.showing.show_tags(check_tags(tags, "set_tags()", is_removable=True), "set_tags()")
