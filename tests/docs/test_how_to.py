"""Every how-to page has one example, which runs by itself and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .scripts import ROOT, python_blocks, run_python

HOW_TO = ROOT / "docs" / "how-to"
INDEX = HOW_TO / "README.md"
PAGES = sorted(path.name for path in HOW_TO.glob("*.md") if path != INDEX)

PRINTED = re.compile(r"^```python\n.*?^```\n+```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: str) -> str:
    return (HOW_TO / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_page_has_one_short_example(page: str) -> None:
    (block,) = python_blocks(text_of(page))
    assert len(block.splitlines()) < 60


@pytest.mark.parametrize("page", PAGES)
def test_example_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    text = text_of(page)
    (tmp_path / "example.py").write_text(python_blocks(text)[0], encoding="utf-8")
    assert run_python("example.py", directory=tmp_path) == "".join(PRINTED.findall(text))
    assert [path.name for path in tmp_path.iterdir()] == ["example.py"]


@pytest.mark.parametrize("page", PAGES)
def test_page_is_listed_in_the_index(page: str) -> None:
    assert f"]({page})" in INDEX.read_text(encoding="utf-8")
