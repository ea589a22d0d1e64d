"""The command ``romancy``. What it needs beyond the library comes with ``pip install "romancy[cli]"``."""

from __future__ import annotations

import sys

_EXTRA = frozenset({"cyclopts", "rich"})


def main() -> None:
    """Run the command line of this process, and exit with its status.

    Raises:
        SystemExit: Always; with 2 if the ``cli`` extra is not installed, or the command can't be understood.
    """
    try:
        from romancy.cli.commands import make_app
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        print(f'romancy: {exc.name} is missing: pip install "romancy[cli]"', file=sys.stderr)
        sys.exit(2)
    from cyclopts import CycloptsError

    try:
        make_app(sys.argv[1:])(exit_on_error=False, print_error=False)
    except CycloptsError as exc:
        told = str(exc).strip() or type(exc).__name__
        print(f"romancy: {' '.join(told.split())} (see romancy --help)", file=sys.stderr)
        sys.exit(2)
