"""What ends a run from outside, in which order it takes hold, and whom else it reaches."""

from __future__ import annotations

import pytest

from romancy import Channel, WorkflowCancelledError, activity, workflow

from .conftest import MakeApp

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("short_pauses")]

go_on: Channel[str] = Channel("endings.go_on", str)
done: list[str] = []


@pytest.fixture(autouse=True)
def fresh_world() -> None:
    done.clear()


@activity(name="endings_note")
async def note(text: str) -> str:
    done.append(text)
    return text


@workflow(name="endings_wait")
async def wait() -> str:
    return await go_on.receive()


async def test_cancel_without_a_reason_is_told_as_a_cancel(make_app: MakeApp) -> None:
    async with make_app() as app:
        handle = await app.start(wait())
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError, match="no reason given") as caught:
            await handle.result()
        assert "by itself" not in str(caught.value)
