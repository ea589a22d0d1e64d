"""``python -m romancy`` is the command ``romancy``."""

from __future__ import annotations

from romancy.cli import main

if __name__ == "__main__":
    main()
