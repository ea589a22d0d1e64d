"""Every subcommand, by name; each is imported when it is called."""

from __future__ import annotations

from importlib import metadata

import cyclopts


def _version() -> str:
    try:
        return metadata.version("romancy")
    except metadata.PackageNotFoundError:
        return "a checkout that is not installed"


app = cyclopts.App(
    name="romancy",
    help="Durable workflows: plain asyncio that survives a crash.",
    version=_version,
)
_COMMANDS = (
    ("demo", "demo.command:demo", "Kill a process in the middle of a few hundred orders, and watch it finish them."),
    ("check", "check.command:check", "Look in workflow code for what a replay would not repeat."),
    ("worker", "operate.working:worker", "Open an App, and execute its instances until it is told to stop."),
    ("list", "operate.reading:list_", "List instances in the order of their start."),
    ("history", "operate.reading:history", "Print what a run of an instance has recorded."),
    ("send", "operate.acting:send", "Send a message to an instance."),
    ("cancel", "operate.acting:cancel", "Ask an instance to cancel."),
    ("terminate", "operate.acting:terminate", "End an instance now, undoing nothing."),
    ("pause", "operate.acting:pause", "Pause an instance."),
    ("unpause", "operate.acting:unpause", "Let a paused instance go on."),
    ("purge", "operate.acting:purge", "Delete an instance that has ended, with its history."),
)
for _name, _place, _help in _COMMANDS:
    app.command(f"romancy.cli.{_place}", name=_name, help=_help)
