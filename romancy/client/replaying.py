"""Replaying saved histories: would the code of today go on with the runs of yesterday?

``romancy history ID --json > case.json`` saves one; in a test, ``replay(fulfil, "case.json")`` raises
`romancy.NondeterminismError` where the code does not fit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from romancy.client.info import SavedHistory
from romancy.core.codec import JsonCodec
from romancy.core.events import CLOSINGS, Event, EventKind, copied_by
from romancy.errors import NondeterminismError
from romancy.replay.execution import Execution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from romancy.core.codec import Codec
    from romancy.core.definitions import Workflow

_FORMAT = 1


def replay(
    workflow: Workflow[..., Any],
    case: SavedHistory | Mapping[str, Any] | str | Path,
    *,
    codec: Codec | None = None,
) -> None:
    """Replay a saved history with a workflow's code, without running any activity; nothing if the code fits it.

    A history of a run that has not ended is replayed as far as it goes.

    Args:
        workflow: The workflow whose code is to go on with it.
        case: What ``romancy history ID --json`` has printed: a `SavedHistory`, the same as a mapping, or the path of a
            file that holds it.
        codec: What decodes payloads; None: the usual one.

    Raises:
        NondeterminismError: The code asks for something else than what is recorded, or comes to an end where the run
            went on, or goes on where the run had come to its end.
        CodecError: The input, or a recorded value, does not fit the annotations any more.
        ValueError: The case can't be replayed: it is of another workflow, of a run that recur has closed, or of a form
            that this romancy does not know.
        BaseException: What the code raises on the way: a programming error.
    """
    saved = _loaded(case)
    if saved.workflow != workflow.name:
        msg = f"history of {saved.id!r} is of workflow {saved.workflow!r}, not of {workflow.name!r}"
        raise ValueError(msg)
    if bytes(saved.input) == b"null" or saved.started_at is None:
        what = "it has not begun" if saved.started_at is None else "recur has closed the run, and its input is not kept"
        msg = f"history of {saved.id!r} can't be replayed: {what}"
        raise ValueError(msg)
    events = [
        Event(
            event.seq, event.turn, event.stamp, EventKind[event.kind.upper()], event.activity_id, bytes(event.payload)
        )
        for event in saved.events
    ]
    execution = Execution(
        workflow,
        bytes(saved.input),
        codec=codec or JsonCodec(),
        execution_id=int(saved.execution_id, 16),
        instance_id=saved.id,
        run=saved.run,
        deadline=saved.deadline,
        copied=copied_by(events),
    )
    try:
        _go_through(execution, events, saved)
    finally:
        execution.suspend()


def _go_through(execution: Execution, events: list[Event], saved: SavedHistory) -> None:
    pending = execution.replay(events, drained_seq=saved.drained, started_at=saved.started_at or 0)
    if pending is not None:  # recorded, and not gone on from: what follows is the code's to say
        turn = execution.activate(pending.releases, stamp=pending.stamp, is_recorded=True)
        if turn.blocked is not None:
            msg = f"history of {saved.id!r}: {turn.blocked.message}"
            raise NondeterminismError(msg, turn.blocked.activity_id)
        return
    last = events[-1] if events else None
    has_ended = last is not None and last.kind in CLOSINGS
    if has_ended and last is not None and last.kind == EventKind.RUN_TERMINATED:
        return  # from outside, wherever it was
    if has_ended and execution.closing is None:
        asked = ", ".join(call.activity_id for call in execution.pending_calls()) or "something else"
        msg = f"history of {saved.id!r} records the run's end, but the code goes on: it asks for {asked}"
        raise NondeterminismError(msg, None, "the end", asked)
    if not has_ended and execution.closing is not None:
        msg = f"history of {saved.id!r} records that the run goes on, but the code has come to its end"
        raise NondeterminismError(msg, None, "more", "the end")


def saved_cases(folder: str | Path) -> Iterator[Path]:
    """Yield the saved histories in a folder and those below it, in the order of their names.

    ``@pytest.mark.parametrize("case", saved_cases("histories"), ids=str)`` makes a test of each.
    """
    yield from sorted(Path(folder).rglob("*.json"))


def _loaded(case: SavedHistory | Mapping[str, Any] | str | Path) -> SavedHistory:
    if isinstance(case, SavedHistory):
        return case
    data = msgspec.json.encode(case) if isinstance(case, Mapping) else Path(case).read_bytes()
    where = "the case" if isinstance(case, Mapping) else str(case)
    try:
        saved = msgspec.json.decode(data, type=SavedHistory)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        msg = f"{where} is no saved history, as 'romancy history ID --json' prints it: {exc}"
        raise ValueError(msg) from exc
    if saved.format != _FORMAT:
        msg = f"{where} has form {saved.format}, and this romancy knows form {_FORMAT}: use the romancy that saved it"
        raise ValueError(msg)
    unknown = {event.kind for event in saved.events} - {kind.name.lower() for kind in EventKind}
    if unknown:
        msg = f"{where} has events that this romancy does not know: {', '.join(sorted(unknown))}"
        raise ValueError(msg)
    return saved
