"""Carrying trace contexts: between OpenTelemetry's current context and what is stored and sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from romancy.core.tracing import BAGGAGE, TraceContext, new_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

_baggage = W3CBaggagePropagator()


def span_context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    """Return the place of a span as OpenTelemetry has it."""
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote,
        TraceFlags(int(context.traceparent[53:55], 16)),
        TraceState.from_header([context.tracestate]) if context.tracestate else TraceState(),
    )


def parent_context(context: TraceContext) -> Context:
    """Return an OpenTelemetry context in which the parent of a span is current, if it has one."""
    if not context.parent:
        return otel_context.Context()
    here = span_context(context, is_remote=True)
    parent = SpanContext(
        here.trace_id,
        int(context.parent, 16),
        is_remote=True,
        trace_flags=here.trace_flags,
        trace_state=here.trace_state,
    )
    return trace.set_span_in_context(NonRecordingSpan(parent), otel_context.Context())


class OtelPropagator:
    """A `romancy.core.hooks.Propagator` on OpenTelemetry's current context."""

    def __init__(self, is_sampled: Callable[[TraceContext], bool]) -> None:
        """Prepare; ``is_sampled`` decides about a trace that begins here."""
        self._is_sampled = is_sampled

    def current(self) -> TraceContext | None:
        """Return the current span, with what is sent along with it; None: there is none."""
        here = trace.get_current_span().get_span_context()
        if not here.is_valid:
            return None
        carrier: dict[str, str] = {}
        _baggage.inject(carrier)
        return TraceContext(
            f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}",
            "",
            here.trace_state.to_header(),
            carrier.get(BAGGAGE, ""),
        )

    def begin(self, parent: TraceContext | None, execution_id: int) -> TraceContext:
        """Return the place of a new instance's span."""
        if parent is not None:
            return parent.child(execution_id)
        root = new_root(execution_id)
        return root if self._is_sampled(root) else new_root(execution_id, is_sampled=False)

    def enter(self, context: TraceContext) -> None:
        """Make a span, which is recorded when it is over, the current one of the running task."""
        entered = trace.set_span_in_context(NonRecordingSpan(span_context(context, is_remote=False)))
        if context.baggage:
            entered = _baggage.extract({BAGGAGE: context.baggage}, entered)
        otel_context.attach(entered)
