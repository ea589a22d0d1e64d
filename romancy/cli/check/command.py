"""``romancy check``."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from romancy.cli.check.looking import Finding, check_source

_FOUND, _UNUSABLE = 1, 2


class UnusableError(Exception):
    """Something that can't be checked; the message says why."""


def check(*targets: str, json: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Look in workflow code, without running it, for what a replay would not repeat.

    Looked at are functions under @workflow, and the functions of the same module that they call. A line is left out by
    the comment `# romancy: ignore`, or `# romancy: ignore[clock]` for one rule. The exit status is 0 if nothing is
    found, 1 if something is, and 2 if a target can't be read.

    Args:
        targets: Modules (`shop.orders`), files or folders.
        json: Print the findings as a JSON array of objects.
    """
    findings: list[Finding] = []
    try:
        for path in dict.fromkeys(path for target in targets or ("",) for path in files_of(target)):
            findings += check_file(path)
    except UnusableError as exc:
        print(f"romancy check: {exc}", file=sys.stderr)
        return _UNUSABLE
    if json:
        print(msgspec.json.format(msgspec.json.encode([finding._asdict() for finding in findings])).decode())
    else:
        for finding in findings:
            print(finding)
    return _FOUND if findings else 0


def check_file(path: Path) -> list[Finding]:
    """Return what is wrong with a file.

    Raises:
        UnusableError: It can't be read.
    """
    shown = str(path)
    try:
        return check_source(path.read_text(encoding="utf-8"), shown)
    except OSError as exc:
        raise UnusableError(f"{shown} can't be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise UnusableError(f"{shown} is not UTF-8: {exc}") from exc
    except SyntaxError as exc:
        raise UnusableError(f"{shown}:{exc.lineno}: {exc.msg}") from exc


def files_of(target: str) -> list[Path]:
    """Return the files of a module, file or folder, in the order of their names.

    Raises:
        UnusableError: There is no such thing.
    """
    if not target:
        raise UnusableError("name a module, a file or a folder: romancy check shop.orders")
    path = Path(target)
    if path.is_dir():
        return sorted(path.rglob("*.py"))
    if path.suffix == ".py" or os.sep in target:
        return [path]
    sys.path.insert(0, "")  # as ``python -m`` does
    try:
        spec = importlib.util.find_spec(target)
    except Exception as exc:  # whatever its packages raise when they are imported
        raise UnusableError(f"module {target!r} can't be found: {exc}") from exc
    finally:
        sys.path.remove("")
    if spec is None or spec.origin is None:
        raise UnusableError(f"there is no module, file or folder {target!r}")
    origin = Path(spec.origin)
    return sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
