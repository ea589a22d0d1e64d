"""Every block of code in the documentation is executed, every link leads somewhere, every public name has a place."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import pytest

import romancy
from romancy import errors
from romancy.cli.commands import COMMANDS
from romancy.errors import DOCUMENTATION, RomancyError, page_of

from .scripts import ROOT, python_blocks, run_python
from .shells import commands, follow, pattern_of
from .test_how_to import HOW_TO, PRINTED

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.parent.name not in {"changelog.d", "_build"})
STORIES = [DOCS / "quickstart.md", DOCS / "tutorial.md"]
_LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s#]*)(#[^)\s]+)?\)")
_FENCE = re.compile(r"^```.*?^```$|^~~~.*?^~~~$", re.MULTILINE | re.DOTALL)
_LANGUAGE = re.compile(r"^```(\S*)", re.MULTILINE)
_KNOWN = {"", "python", "text", "console", "markdown", "{toctree}", "{eval-rst}"}
_REFERENCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference").glob("*.md")))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.skipif(shutil.which("bash") is None, reason="the commands of these pages are typed into bash")
@pytest.mark.parametrize("page", STORIES, ids=name_of)
def test_page_can_be_followed_word_by_word(page: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    assert follow(page.read_text(encoding="utf-8"), tmp_path / "work") > 5


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_other_pages_run_and_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    languages = [each for each in _LANGUAGE.findall(text) if each]
    assert set(languages) <= _KNOWN
    if page in STORIES or page.parent == HOW_TO:
        return  # the how-to pages are run by their own tests
    assert "console" not in languages
    blocks = python_blocks(text)
    printed = PRINTED.findall(text)
    assert len(printed) == len(blocks)
    for block, expected in zip(blocks, printed, strict=True):
        (tmp_path / "example.py").write_text(block, encoding="utf-8")
        assert run_python("example.py", directory=tmp_path) == expected


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{page}: {target}"
        if anchor and found.suffix == ".md":
            assert anchor[1:] in anchors(found), f"{page}: {target}{anchor}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_public_name_is_in_the_reference() -> None:
    for name in romancy.__all__:
        found = getattr(romancy, name)
        is_error = inspect.isclass(found) and issubclass(found, RomancyError)
        wanted = rf"^## {name}$" if is_error else rf":: (romancy\.)?{name}$"
        assert re.search(wanted, _REFERENCE, re.MULTILINE), name


@pytest.mark.parametrize("name", romancy.__all__)
def test_every_public_name_says_what_it_is(name: str) -> None:
    found = getattr(romancy, name)
    if name == "logger":
        return
    assert inspect.getdoc(found), name
    for method, value in inspect.getmembers(found) if inspect.isclass(found) else ():
        if (
            not method.startswith("_")
            and callable(value)
            and str(getattr(value, "__module__", "")).startswith("romancy")
        ):
            assert inspect.getdoc(value), f"{name}.{method}"


def test_every_error_leads_to_its_page() -> None:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, RomancyError)]
    for cls in classes:
        address = page_of(cls)
        assert address == f"{DOCUMENTATION}/reference/errors.html#{cls.__name__.lower()}"
        assert cls.__name__.lower() in anchors(DOCS / "reference" / "errors.md")
        assert cls.__new__(cls, "what happened").__notes__ == [f"see {address}"]


def test_every_problem_over_http_has_its_place() -> None:
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "romancy" / "integrations").glob("*.py")))
    kinds = set(re.findall(r'HTTPStatus\.\w+,\s*"([a-z-]+)"', sources))
    kinds |= {f"unknown-{what}" for what in re.findall(r'unknown\("([a-z]+)"', sources)}
    assert len(kinds) > 15
    assert kinds - anchors(DOCS / "reference" / "problems.md") == set()


def test_every_command_is_on_its_page() -> None:
    page = (HOW_TO / "command-line.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"`romancy {name}" in page, name


def test_output_is_compared_as_the_pages_mean_it() -> None:
    (first, second) = commands("$ a\nx … y\n…\nz\n$ b\n")
    assert (first.text, second.text, second.printed) == ("a", "b", [])
    pattern = pattern_of(first.printed)
    assert pattern.fullmatch("x 1 y\nmore\nlines\nz\n")
    assert pattern.fullmatch("x  y\nz  \n")
    assert not pattern.fullmatch("x y\nz\nmore\n")
    assert not pattern.fullmatch("")
