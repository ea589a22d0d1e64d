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
app.command("romancy.cli.demo.command:demo")
app.command("romancy.cli.check.command:check")
