"""Requests generated from the OpenAPI document of the mounted router find no 500, and nothing that it does not tell."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI

from romancy.integrations import fastapi

from .service import WORKFLOWS, approvals, make_app, prices, serving_asgi

CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance,negative_data_rejection"
"""Not: that all of a form is accepted (a start is at an instant or after a delay, not both); nor what a framework
replies where no route fits."""


@contextmanager
def served(url: str) -> Generator[str]:
    """Serve the router from a thread: schemathesis waits for its replies."""
    app = make_app(url)
    application = FastAPI(lifespan=fastapi.lifespan(app))
    made = fastapi.router(app, authorize="open", workflows=WORKFLOWS, channels=[approvals, prices], longest_wait=0.1)
    application.include_router(made, prefix="/flow")
    addresses: list[str] = []
    is_up = threading.Event()
    loop = asyncio.new_event_loop()
    is_over = asyncio.Event()

    async def serve() -> None:
        async with serving_asgi(application) as address:
            addresses.append(address)
            is_up.set()
            await is_over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    is_up.wait(20)
    try:
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join()
        loop.close()


@pytest.mark.parametrize("back_end", ["sqlite", "postgres"])
def test_generated_requests_find_no_500(back_end: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = "sqlite://"
    if back_end == "postgres":
        server = request.getfixturevalue("postgres")
        url = f"{server.dsn}&schema={server.new_schema()}"
    with served(url) as address:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--no-color"),
                *(
                    "--checks",
                    CHECKS,
                    "--max-examples",
                    "30",
                    "--seed",
                    "20",
                    "--report-junit-path",
                    tmp_path / "report.xml",
                ),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
    assert done.returncode == 0, done.stdout
    assert "15 selected" in done.stdout
