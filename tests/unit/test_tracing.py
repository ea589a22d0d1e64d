"""Trace contexts as values."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from romancy.core.tracing import TraceContext, context_in, context_of_run, is_traceparent, new_root

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@given(st.integers(0, 2**62), st.integers(0, 10))
def test_root_is_a_traceparent_and_the_same_for_the_same_names(execution_id: int, run: int) -> None:
    root = new_root(execution_id, run)
    assert root == new_root(execution_id, run)
    assert is_traceparent(root.traceparent)
    assert root.is_sampled
    assert root.parent == ""
    assert root != new_root(execution_id, run + 1)


@given(st.text())
def test_child_stays_in_the_trace_under_its_parent(name: str) -> None:
    parent = TraceContext(PARENT, "", "vendor=1", "user=7")
    child = parent.child(name)
    assert child == parent.child(name)
    assert is_traceparent(child.traceparent)
    assert (child.trace_id, child.parent) == (parent.trace_id, parent.span_id)
    assert child.span_id not in {parent.span_id, child.child(name).span_id}
    assert (child.tracestate, child.baggage, child.is_sampled) == ("vendor=1", "user=7", True)


def test_unsampled_stays_unsampled() -> None:
    root = new_root(1, is_sampled=False)
    assert not root.child("a").is_sampled
    assert not context_of_run(root.encode(), 1, 3).is_sampled


def test_first_run_is_what_is_stored_and_later_ones_have_traces_of_their_own() -> None:
    stored = TraceContext(PARENT, "00f067aa0ba902b7", "", "user=7")
    assert context_of_run(stored.encode(), 5, 0) == stored
    second, third = (context_of_run(stored.encode(), 5, run) for run in (1, 2))
    assert len({stored.trace_id, second.trace_id, third.trace_id}) == 3
    assert (second.parent, second.baggage) == ("", "user=7")
    assert second == context_of_run(stored.encode(), 5, 1)


@pytest.mark.parametrize("stored", [None, "", "00-ab-cd-01", "{}", '{"traceparent":"x"}', '{"traceparent":7}'])
def test_what_can_t_be_read_is_as_if_nothing_was_stored(stored: str | None) -> None:
    assert context_of_run(stored, 5, 0) == new_root(5, 0)


@pytest.mark.parametrize(
    ("traceparent", "is_one"),
    [
        (PARENT, True),
        (PARENT.replace("00-", "01-", 1) + "-more", True),
        (PARENT + "-more", False),
        (PARENT.replace("00-", "ff-", 1), False),
        (PARENT.upper(), False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01", False),
        ("", False),
    ],
)
def test_traceparent_is_judged_by_the_specification(traceparent: str, is_one: bool) -> None:
    assert is_traceparent(traceparent) is is_one
    assert (context_in({"traceparent": traceparent}) is not None) is is_one


def test_context_goes_through_headers() -> None:
    context = TraceContext(PARENT, "00f067aa0ba902b7", "vendor=1", "user=7")
    assert context_in(context.headers()) == msgspec.structs.replace(context, parent="")
    assert context_in({}) is None


def test_too_long_a_state_is_left_out() -> None:
    found = context_in({"traceparent": PARENT, "tracestate": "a" * 9_000, "baggage": "b" * 9_000})
    assert found == TraceContext(PARENT)
