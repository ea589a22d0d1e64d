"""Every Python block of the README runs as it is written, in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .scripts import ROOT, python_blocks, run_python

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = python_blocks(README)

# What the blocks leave to the reader: payload types (of functions whose bodies are `...`, hence None) and the other
# activities. It is executed before a block, in the same namespace.
PRELUDE = """
import ast, asyncio, inspect, sys
import msgspec
import romancy

class Order(msgspec.Struct):
    id: int

class Approval(msgspec.Struct):
    granted: bool

class Rejected(Exception):
    pass

Reservation = Payment = Label = Receipt = type(None)

@romancy.activity
async def charge(order: Order) -> Payment: ...

@romancy.activity
async def print_label(order: Order) -> Label: ...

@romancy.activity
async def ship(order: Order, label: Label, approval: Approval) -> Receipt:
    print("shipped", order.id, approval.granted)

order = Order(123)
"""
RUN = """
code = compile(sys.stdin.read(), "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
result = eval(code)
if inspect.iscoroutine(result):
    asyncio.run(result)
"""
# Nobody wants to wait an hour for a test.
SHORTENED = {"asyncio.sleep(3600)": "asyncio.sleep(0.1)"}


def run(block: str, directory: Path) -> str:
    for written, run_instead in SHORTENED.items():
        block = block.replace(written, run_instead)
    return run_python("-c", PRELUDE + RUN, directory=directory, stdin=block)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block_runs(number: int, tmp_path: Path) -> None:
    run(BLOCKS[number], tmp_path)


def test_readme_example_ships_the_order_and_keeps_it_in_a_file(tmp_path: Path) -> None:
    assert run(BLOCKS[0], tmp_path) == "shipped 123 True\n"
    assert (tmp_path / "orders.db").is_file()


def test_readme_names_only_commands_that_nox_knows() -> None:
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"nox -s (\w+)", README)) <= set(sessions)
