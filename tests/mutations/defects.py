"""Deliberate defects: each replaces one place of the engine, and must be noticed."""

from __future__ import annotations

from typing import NamedTuple


class Defect(NamedTuple):
    """A defect: where, what stands there, what is to stand there instead, and what it means."""

    file: str
    old: str
    new: str
    means: str


DEFECTS = (
    Defect(
        "storage/entries.py",
        "        and row.session == session\n",
        "",
        "an entry of a session that does not own the instance any more is taken",
    ),
    Defect(
        "storage/entries.py",
        "        and row.next_seq == entry.seq\n        and row.session == session\n",
        "",
        "an entry holds wherever the run stands",
    ),
    Defect(
        "storage/waking.py",
        "    return _by(now, wake_at) if is_mailed else wake_at\n",
        "    return wake_at\n",
        "a run parks though there is unseen mail",
    ),
    Defect(
        "storage/waking.py",
        "        return wake_at\n    return _by(now, wake_at)\n",
        "        return wake_at\n    return wake_at\n",
        "mail makes nobody claimable",
    ),
    Defect(
        "storage/instances.py",
        "    if await tx.row(messages.IS_DELIVERED, target.key, item.message_id) is not None:\n",
        "    if False:\n",
        "a message with the id of another is delivered again",
    ),
    Defect(
        "storage/commit.py",
        "        (messages.DELETE_ONE, decision.consumed),\n",
        "",
        "a message that was read stays in the inbox",
    ),
    Defect(
        "storage/commit.py",
        "    for key in decision.closings:\n        await effects.conclude(key)\n",
        "",
        "the end of an instance concerns nobody: neither parents nor subscriptions",
    ),
    Defect(
        "storage/sql/instances.py",
        'FREE_AND_COUNT = (\n    f"UPDATE instances SET session = NULL,',
        'FREE_AND_COUNT = (\n    f"UPDATE instances SET session = session,',
        "what a dead session has owned stays its own",
    ),
    Defect(
        "replay/undoing.py",
        "        for armed in reversed(self.armed.values()):\n",
        "        for armed in self.armed.values():\n",
        "compensations run in the order of what they undo",
    ),
    Defect(
        "replay/operations.py",
        "        call.attempt += 1\n",
        "",
        "attempts are not counted",
    ),
    Defect(
        "replay/ids.py",
        '        return f"{self.path}.{self.operations}" if self.path else str(self.operations)\n',
        "        return str(self.operations)\n",
        "operations of different tasks have the same ids",
    ),
    Defect(
        "worker/worker.py",
        '        self._turns.drop_all("session lost")\n        self._hot.clear()\n',
        "",
        "a worker goes on with its runs though its session is lost",
    ),
    Defect(
        "worker/committer.py",
        "                batch = [item for item in batch if not item[1].is_gone]\n                if not batch:\n",
        "                if not batch:\n",
        "entries of runs that have left memory are committed",
    ),
    Defect(
        "worker/claiming.py",
        "            await self._storage.free_strays(session, [run.key for run in self._hot], list(self._starting))\n",
        "",
        "what a claim took whose acknowledgement was lost is never freed",
    ),
    Defect(
        "worker/loading.py",
        "        if command.activity_id not in answered and command.activity_id not in run.bodies\n",
        "        if command.activity_id not in answered and command.activity_id in run.bodies\n",
        "activities under way are not begun again after a replay",
    ),
)
