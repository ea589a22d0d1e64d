"""What is imported with what: nobody has to install a framework that is not used."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = {"aiohttp", "asyncpg", "cloudevents", "fastapi", "opentelemetry", "pydantic", "starlette"}


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("romancy", set[str]()),
        ("romancy.integrations.starlette", {"starlette"}),
        ("romancy.integrations.fastapi", {"fastapi", "starlette", "pydantic"}),
        ("romancy.integrations.aiohttp", {"aiohttp"}),
        ("romancy.integrations.cloud_events", {"cloudevents"}),
        ("romancy.telemetry", {"opentelemetry"}),
    ],
)
def test_module_imports_its_own_framework_alone(module: str, needed: set[str]) -> None:
    program = f"import sys, {module}; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = set(done.stdout.split()) & OPTIONAL
    if module == "romancy.integrations.fastapi":
        found.discard("opentelemetry")  # recent FastAPIs import it themselves, where it is installed
    assert found == needed
