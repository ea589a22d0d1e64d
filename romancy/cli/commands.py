"""Every command, by name; each is imported when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, cast

import cyclopts


def _version() -> str:
    try:
        return metadata.version("romancy")
    except metadata.PackageNotFoundError:
        return "a checkout that is not installed"


COMMANDS = {
    "demo": "demo.command:demo",
    "check": "check.command:check",
    "worker": "operate.working:worker",
    "list": "operate.reading:list_",
    "show": "operate.showing:show",
    "history": "operate.reading:history",
    "watch": "operate.watching:watch",
    "send": "operate.sending:send",
    "cancel": "operate.acting:cancel",
    "terminate": "operate.acting:terminate",
    "pause": "operate.acting:pause",
    "unpause": "operate.acting:unpause",
    "retry": "operate.acting:retry",
    "rerun": "operate.sending:rerun",
    "purge": "operate.acting:purge",
    "migrate": "operate.migrating:migrate",
    "replay": "operate.replaying:replay",
}
"""Where each command is, by its name."""


def make_app(arguments: Sequence[str]) -> cyclopts.App:
    """Return the command line. Unless a command is named, all of them are imported: their helps are wanted.

    Args:
        arguments: What was given, without the program's name.
    """
    app = cyclopts.App(
        name="romancy",
        help="Durable workflows: plain asyncio that survives a crash.",
        version=_version,
    )
    is_overview = not arguments or arguments[0].startswith("-")
    for name, place in COMMANDS.items():
        app.command(_imported(place) if is_overview else f"romancy.cli.{place}", name=name)
    cast("Any", app).register_install_completion_command(name="--install-completion")  # its ``**kwargs`` are untyped
    return app


def _imported(place: str) -> Callable[..., object]:
    module, _, name = place.partition(":")
    found: Callable[..., object] = getattr(importlib.import_module(f"romancy.cli.{module}"), name)
    return found
