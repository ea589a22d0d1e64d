"""The command ``romancy``. What it needs beyond the library comes with ``pip install "romancy[cli]"``."""

from __future__ import annotations

import sys

_EXTRA = frozenset({"cyclopts", "rich"})


def main() -> None:
    """Run the command line of this process, and exit with its status.

    Raises:
        SystemExit: Always; with 2 if the ``cli`` extra is not installed.
    """
    try:
        from romancy.cli.commands import app
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(f'romancy: {exc.name} is missing: pip install "romancy[cli]"', file=sys.stderr)
        sys.exit(2)
    app()
