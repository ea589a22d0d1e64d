"""Which of a workflow's patches a run takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from romancy.core.events import EventKind, Note
from romancy.errors import NondeterminismError

if TYPE_CHECKING:
    from romancy.replay.execution import Execution

PREFIX = "patch:"
"""What a patch's activity id begins with: it takes no operation's position, so that no later id shifts."""


class Patching:
    """Answer a run's questions after its patches, each once and for all.

    A patch that is recorded is taken. One that is not recorded is taken by a run that asks for the first time while it
    is live, and recorded then. A run that asks first while it goes through what an earlier code has done does not take
    it. The first turn needs care, because it may have begun activities and recorded nothing: it counts as done by an
    earlier code if another build began it. That build did not ask before it began them, else the patch were recorded.
    """

    __slots__ = ("_answers", "_run")

    def __init__(self, run: Execution) -> None:
        self._run = run
        self._answers: dict[str, bool] = {}

    def is_taken(self, patch: str) -> bool:
        """Tell whether the run takes a patch.

        Raises:
            SuspendSignal: The run is leaving memory, or what is recorded contradicts.
        """
        self._run.refuse_if_poisoned()
        answer = self._answers.get(patch)
        if answer is None:
            answer = self._answers[patch] = self._ask(patch)
        return answer

    def _ask(self, patch: str) -> bool:
        run = self._run
        if run.journal is not None:
            try:
                return run.journal.meet_patch(patch)
            except NondeterminismError as exc:
                run.fail_turn(exc)
        if run.is_replaying or (run.is_begun_elsewhere and run.turn == 1):
            return False
        run.note(Note(EventKind.PATCHED, PREFIX + patch, None))
        return True
