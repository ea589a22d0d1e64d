"""Every example runs by itself, without a service, and prints what it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from .scripts import ROOT, run_python

EXAMPLES = ROOT / "examples"

PRINTED = {
    "agent_loop.py": """\
Take an umbrella to Linz
['1:think', '2:weather', '3:weather', '4:think']
the model was asked 3 times, once in vain
""",
    "channels.py": """\
['15.0 is above 10.0', '25.0 is above 20.0']
6 pictures by 3 workers: ['ape', 'bee', 'cat', 'dog', 'elk', 'fox']
""",
    "fastapi_approval.py": """\
['Ann gets 12 euros', 'Ines has refused', 'Cleo gets nothing: nobody has decided']
""",
    "subscription_billing.py": """\
goodbye Ada: she has moved to the country
12 receipts, the last of them: month 12: Ada has paid
runs: 12
""",
    "aiohttp_webhook.py": """\
flute is on its way
""",
    "cloud_events.py": """\
1 204
1 204
2 204
2 204
3 204
4 404
a flute: packed, sent
""",
    "fan_out.py": """\
words: 12
as they ended: [2, 4, 6]
longest page: 6
""",
    "fastapi_orders.py": """\
300 charged for a flute
{'id': '2'}
{'id': '2', 'status': 'running'}
9000 charged for a piano
The body is not what is expected
""",
    "human_approval.py": """\
report is published
poem is refused by Ines
novel is put aside: nobody has answered
""",
    "order_saga.py": """\
reserve a flute
charge 300 for a flute
a flute is on its way
reserve a piano
charge 9000 for a piano
refund 9000 of 9000 for a piano
release the reservation of a piano: the piano is on sale again
instance 'order-2' failed: NonRetryableError: no carrier takes a piano
""",
    "polling_with_recur.py": """\
rendered after 7 looks, in run 2
events of the last run: ['activity_completed', 'run_completed']
""",
    "timers.py": """\
asleep, and no process runs
Olga was reminded
no answer in time
""",
    "tracing.py": """\
'POST /orders' is below 'nothing'
'activity charge' is below 'run order'
'call the bank' is below 'activity charge'
'run order' is below 'POST /orders'
'run ship' is below 'run order'
traces: 1
""",
    "transactional_activity.py": """\
Bo now has 30 {'Ada': 70, 'Bo': 30}
attempts at moving: 2
""",
    "watching.py": """\
report -: two pages
report 1:render: rendering page 1
report 1:render: rendering page 1
report 2:render: rendering page 2
report 2:render: rendering page 2
report: attempt 1 at render: the printer is busy
report: attempt 1 at render: the printer is busy
report: report is completed
""",
}


def test_every_example_is_listed_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_example_prints_what_it_should(name: str, tmp_path: Path) -> None:
    assert run_python(EXAMPLES / name, directory=tmp_path) == PRINTED[name]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PRINTED)
def test_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) < 90
