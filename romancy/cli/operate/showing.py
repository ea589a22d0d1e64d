"""``romancy show``: what a run has done, what has failed, what was undone, and what is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from romancy.cli.operate.connecting import Json, Url, run
from romancy.cli.operate.printing import COLOURS, print_json, time_of
from romancy.client.client import Client
from romancy.client.info import ChildInfo, InstanceInfo
from romancy.client.timeline import Happening, Outcome, failure_line

_MARKS: dict[Outcome, tuple[str, str]] = {
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "again": ("↻", "yellow"),
    "undone": ("✓", "dim"),
    "under way": ("…", "yellow"),
    "noted": ("·", ""),
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_MINUTE = 60


def show(
    id: str,
    /,
    *,
    url: Url,
    number: Annotated[int | None, Parameter(name="--run")] = None,
    events: int = 30,
    json: Json = False,
) -> int:
    """Show what an instance has done, what has failed, what was undone, and what it waits for.

    With --json an object with `instance`, `timeline`, `children` is printed.

    Args:
        id: The instance's id.
        number: The run's number, from 0; by default the latest.
        events: How many lines of the timeline to show at most: the first and the last of it; 0: all.
    """

    async def work(client: Client) -> int:
        handle = await client.get(id)
        info = await handle.info()
        timeline = await handle.timeline(run=number)
        children = await handle.children()
        if json:
            print_json({"instance": info, "timeline": timeline, "children": children})
            return 0
        now = datetime.now(UTC)
        is_latest = number is None or number == info.run
        console = Console()
        lines = [*_head(info, now), Text(), *_timeline(info, timeline, events, console.width), Text(), _sums(timeline)]
        if not is_latest:
            lines.append(Text(f"this was run {number}; the latest is run {info.run}", "dim"))
        elif info.closed_at is None:
            lines += _waits(info, timeline, children, now)
        elif timeline and timeline[-1].outcome == "failed":
            lines.append(Text(timeline[-1].text, "red"))  # once in full length
        for line in lines:
            console.print(line)
        return 0

    return run(url, work)


def _head(info: InstanceInfo, now: datetime) -> list[Text]:
    title = Text.assemble((info.id, "bold"), "  ", info.workflow, " ", (f"version {info.version}", "dim"), "  ")
    title.append(info.status.replace("_", " "), COLOURS.get(info.status, "bold"))
    begun = info.started_at or info.created_at
    until = info.closed_at or now
    words = [f"begun {time_of(begun)}" if info.started_at else f"created {time_of(begun)}, not begun"]
    if info.closed_at is not None:
        words.append(f"ended {time_of(info.closed_at)}")
    if info.started_at is not None:
        words.append(_span((until - begun).total_seconds()))
    words.append("1 event" if info.events == 1 else f"{info.events} events")
    if info.run:
        words.append(f"run {info.run}")
    if info.recoveries:
        words.append(f"{info.recoveries} times recovered")
    if info.deadline is not None and info.closed_at is None:
        words.append(f"time limit {time_of(info.deadline)}")
    lines = [title, Text(", ".join(words), "dim")]
    if info.tags:
        lines.append(Text("tags: " + ", ".join(f"{name}={value}" for name, value in sorted(info.tags.items())), "dim"))
    if info.custom_status is not None:
        lines.append(Text(f"says: {msgspec.json.encode(info.custom_status).decode()}"))
    if info.failure is not None:
        lines.append(Text(f"blocked: {failure_line(info.failure)}", "red"))
        lines.append(Text("deploy code that fits, then it goes on by itself; or romancy retry", "dim"))
    return lines


def _timeline(info: InstanceInfo, timeline: Sequence[Happening], limit: int, width: int) -> list[Text]:
    """Return the story, a line for each event, cut off rather than wrapped: it must fit into a screen."""
    if not timeline:
        return [Text("  nothing is recorded yet", "dim")]
    first, last = list(timeline), list[Happening]()
    if 0 < limit < len(timeline):
        first, last = list(timeline[: limit // 2]), list(timeline[len(timeline) - (limit - limit // 2) :])
    begun = info.started_at or info.created_at
    cells = [_cells(happening, begun) for happening in (*first, *last)]
    passed = max(len(cell[0]) for cell in cells)
    name = min(max(len(cell[2]) for cell in cells), max(width // 3, 12))
    lines: list[Text] = []
    for at, mark, label, told, style in cells:
        line = Text.assemble((f"{at:>{passed}} ", "dim"))  # not as the style of the whole line
        line.append(f"{mark} {_cut(label, name):<{name}} ", style)
        line.append(told, "" if style == "green" else style)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    if last:
        left = len(timeline) - len(cells)
        lines.insert(len(first), Text(f"{'':{passed}} … {left} more, which --events 0 shows", "dim"))
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _cells(happening: Happening, begun: datetime) -> tuple[str, str, str, str, str]:
    """Return a line's time, mark, name, text and style."""
    mark, style = _MARKS[happening.outcome]
    is_undoing = happening.kind == "compensation"
    if is_undoing and happening.outcome == "done":
        mark, style = "↩", "cyan"
    told: list[str] = []
    if happening.undone_by is not None:
        told.append(f"(undone by {happening.undone_by})")
    if is_undoing:
        words = {"done": "undid", "failed": "could not undo", "again": "undoes", "under way": "is undoing"}
        told.append(f"{words.get(happening.outcome, 'undoes')} {happening.undoes}")
    if happening.text not in {"", "null"}:
        told.append(" ".join(happening.text.split()))
    name = happening.activity_id or happening.kind
    if happening.kind == "run":
        name = happening.kind
    elif happening.activity_id and happening.kind not in {"activity", "compensation"}:
        name = f"{happening.kind} {happening.activity_id}"
    separator = ": " if is_undoing and len(told) > 1 else " "
    passed = f"+{_span((happening.at - begun).total_seconds())}"
    return passed, mark, name, separator.join(told), style


def _sums(timeline: Sequence[Happening]) -> Text:
    """Return how much was done, failed and undone, in a line."""
    activities = [happening for happening in timeline if happening.kind == "activity"]
    undoing = [happening for happening in timeline if happening.kind == "compensation"]
    done = sum(each.outcome in {"done", "undone"} for each in activities)
    counts = (
        (done, "activity done" if done == 1 else "activities done", "green"),
        (sum(each.outcome == "failed" for each in activities), "failed", "red"),
        (sum(each.outcome == "undone" for each in activities), "undone", "cyan"),
        (sum(each.outcome == "failed" for each in undoing), "could not be undone", "red"),
        (sum(each.outcome == "under way" for each in undoing), "being undone", "yellow"),
    )
    line = Text()
    for count, what, style in counts:
        if count or what.startswith("activit"):
            line.append(f"{', ' if line else ''}{count} {what}", style if count else "dim")
    return line


def _waits(
    info: InstanceInfo, timeline: Sequence[Happening], children: Sequence[ChildInfo], now: datetime
) -> list[Text]:
    """Return what is still waited for, and since when."""
    ended = {happening.activity_id for happening in timeline if happening.outcome in {"done", "failed", "undone"}}
    undoes = {happening.activity_id: happening.undoes for happening in timeline if happening.undoes}
    statuses = {child.id: child.status for child in children}
    lines: list[Text] = []

    def add(what: str, *told: str, style: str = "") -> None:
        lines.append(Text.assemble((f"{what:<10}", "bold"), (" ".join(each for each in told if each), style)))

    waits = [wait for wait in info.waiting_on if wait.get("id") not in ended]
    for happening in timeline:
        if happening.outcome == "under way" and happening.activity_id not in {wait["id"] for wait in waits}:
            add("waits for", f"{happening.activity_id}, undoing {happening.undoes},", _since(happening.at, now))
    for wait in waits:
        undone = undoes.get(wait["id"])
        told = f"undoing {undone}, attempt {wait.get('attempt', '1')}," if undone else f"{_wait(wait, statuses)},"
        since = _since(datetime.fromisoformat(wait["since"]), now) if "since" in wait else ""
        until = f"until {_when(datetime.fromisoformat(wait['until']), now)}" if "until" in wait else ""
        add("waits for", f"{wait['id']},", told, f"{since}," if since and until else since, until)
    if info.status == "paused":
        add("paused", "nothing goes on until romancy unpause")
    elif info.is_owned:
        last = timeline[-1].at if timeline else info.started_at or info.created_at
        add("held", "by a worker; the last event was recorded", f"{_span((now - last).total_seconds())} ago")
    elif info.status in {"running", "pending"} and info.wake_at is not None and info.wake_at <= now:
        add("due", _since(info.wake_at, now), f"and taken by no worker: does one serve {info.workflow!r}?", style="red")
    if info.unread:
        add("unread", f"{info.unread} new in its inbox")
    return lines


def _wait(wait: dict[str, str], statuses: dict[str, str]) -> str:
    match wait.get("kind"):
        case "receive":
            return f"a message on channel {wait.get('channel')!r}"
        case "timer":
            return "a timer"
        case "child":
            child = wait.get("instance", "")
            status = statuses.get(child)
            return f"child {child}" + (f" ({status})" if status else "")
        case "activity":
            attempt = wait.get("attempt", "1")
            return "an activity" + (f", attempt {attempt}" if attempt != "1" else "")
        case kind:
            return f"the outcome of {kind}"


def _span(seconds: float) -> str:
    """Return a time in one or two units."""
    if seconds < _MINUTE:
        return f"{seconds:.2f} s"
    for size, unit in _UNITS:
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            smaller = next(((s, u) for s, u in (*_UNITS, (1, "s")) if s < size), (1, "s"))
            part = rest // smaller[0]
            return f"{whole} {unit}" + (f" {part} {smaller[1]}" if part else "")
    return f"{seconds:.0f} s"


def _since(instant: datetime, now: datetime) -> str:
    return f"since {_when(instant, now)} ({_span(max((now - instant).total_seconds(), 0))})"


def _when(instant: datetime, now: datetime) -> str:
    """Return an instant, without its date if that is today's."""
    there, here = instant.astimezone(), now.astimezone()
    return f"{there:%H:%M:%S}" if there.date() == here.date() else time_of(instant)
