"""What is shown while the demo runs: a live bar on a terminal, a few plain lines elsewhere, or nothing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console

    from romancy.cli.demo.driver import Progress, Screen


class _Silence:
    """Show nothing: what counts comes at the end."""

    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def say(self, seconds: float, text: str) -> None:
        """Say nothing."""


class _Lines:
    """Print what has happened, a line each."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, progress: Progress) -> None:
        """Show nothing: a log is no place for it."""

    def say(self, seconds: float, text: str) -> None:
        self._console.print(f"{seconds:5.1f} s  {text}", highlight=False, soft_wrap=True)


class _LiveScreen:
    """A bar with counts at the bottom, what has happened above it."""

    def __init__(self, console: Console) -> None:
        self._bar = Bar(
            TextColumn("orders"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            expand=True,
        )
        self._task = self._bar.add_task("orders", total=None)
        self._counts = Text()
        self.live = Live(Group(self._bar, self._counts), console=console, refresh_per_second=10, transient=True)

    def show(self, progress: Progress) -> None:
        self._bar.update(self._task, total=progress.orders, completed=progress.ended)
        self._counts.plain = (
            f"{progress.completed} completed · {progress.ended - progress.completed} rejected · "
            f"{progress.activities} activities · {progress.under_way} under way"
        )

    def say(self, seconds: float, text: str) -> None:
        style = "bold red" if text.startswith("killed") else "green"
        self.live.console.print(Text.assemble((f"{seconds:5.1f} s  ", "dim"), (text, style)))


@contextmanager
def open_screen(console: Console, *, is_silent: bool) -> Generator[Screen, None, None]:
    """Open what fits the console; it is cleared when the block is left."""
    if is_silent:
        yield _Silence()
    elif not console.is_terminal:
        yield _Lines(console)
    else:
        screen = _LiveScreen(console)
        with screen.live:
            yield screen
