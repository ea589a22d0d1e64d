"""Recording spans that are over, under ids that were given out before."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from romancy.telemetry.propagation import parent_context, span_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.trace import Tracer

    from romancy.core.failures import Failure
    from romancy.core.tracing import TraceContext


NANOSECONDS = 1_000
"""In a microsecond: OpenTelemetry counts these."""


class IdGenerator(Protocol):
    """What the SDK makes ids with."""

    def generate_span_id(self) -> int:
        """Return a span's id."""
        ...

    def generate_trace_id(self) -> int:
        """Return a trace's id."""
        ...


class SpanEvent(NamedTuple):
    """Something that happened within a span."""

    name: str
    stamp: int
    attributes: dict[str, AttributeValue]


_ID_GENERATOR = "id_generator"
"""The attribute of the SDK's tracers; the API's have none."""


class _ChosenIds:
    """An id generator of the SDK that gives out the ids which were chosen for the next span of this thread.

    The SDK offers no other way to say what a span's id is. It is asked in the thread that starts the span.
    """

    def __init__(self, others: IdGenerator) -> None:
        self._others = others
        self._chosen = threading.local()

    def choose(self, context: TraceContext) -> None:
        """Choose the ids of the next span."""
        self._chosen.ids = (int(context.trace_id, 16), int(context.span_id, 16))

    def generate_span_id(self) -> int:
        """Return a span's id."""
        ids: tuple[int, int] | None = getattr(self._chosen, "ids", None)
        self._chosen.ids = None
        return self._others.generate_span_id() if ids is None else ids[1]

    def generate_trace_id(self) -> int:
        """Return the id of a trace that begins; its first span's id is asked for next."""
        ids: tuple[int, int] | None = getattr(self._chosen, "ids", None)
        return self._others.generate_trace_id() if ids is None else ids[0]

    def is_trace_id_random(self) -> bool:
        """Tell whether the ids are random; those that are chosen derive from random ones."""
        is_random = getattr(self._others, "is_trace_id_random", None)  # SDKs before 1.40 do not ask
        return is_random is not None and is_random()


class Recorder:
    """Record spans that are over. As long as no provider of the SDK is there, nothing is recorded."""

    def __init__(self, get_tracer: Callable[[], Tracer]) -> None:
        """Prepare; ``get_tracer`` is asked until it returns one of the SDK's: the provider may be set later."""
        self._get_tracer = get_tracer
        self._found: tuple[Tracer, _ChosenIds] | None = None

    def _find(self) -> tuple[Tracer, _ChosenIds] | None:
        """Return the SDK's tracer and its id generator; None: there is no SDK, or not yet."""
        if self._found is None:
            tracer = self._get_tracer()
            others = getattr(tracer, _ID_GENERATOR, None)
            if others is None:
                return None
            ids = others if isinstance(others, _ChosenIds) else _ChosenIds(others)
            setattr(tracer, _ID_GENERATOR, ids)
            self._found = tracer, ids
        return self._found

    def is_sampled(self, root: TraceContext) -> bool:
        """Ask the SDK's sampler about a trace that begins."""
        found = self._find()
        sampler = None if found is None else getattr(found[0], "sampler", None)
        if sampler is None:
            return False
        result = sampler.should_sample(parent_context(root), int(root.trace_id, 16), "run", SpanKind.INTERNAL, {}, ())
        return bool(result.decision.is_sampled())

    def record(
        self,
        context: TraceContext,
        name: str,
        *,
        begin: int,
        end: int,
        attributes: dict[str, AttributeValue],
        events: Sequence[SpanEvent] = (),
        links: Sequence[Link] = (),
        failure: Failure | None = None,
        is_error: bool = False,
    ) -> None:
        """Record a span; instants are epoch microseconds."""
        found = self._find() if context.is_sampled else None
        if found is None:
            return
        tracer, ids = found
        ids.choose(context)
        span = tracer.start_span(
            name, parent_context(context), attributes=attributes, links=links, start_time=begin * NANOSECONDS
        )
        for event in events:
            span.add_event(event.name, event.attributes, event.stamp * NANOSECONDS)
        if failure is not None:
            span.add_event("exception", dict(about_failure(failure)), end * NANOSECONDS)
            span.set_attribute("error.type", type_of(failure))
        if is_error:
            span.set_status(Status(StatusCode.ERROR, None if failure is None else failure.message))
        span.end(max(begin, end) * NANOSECONDS)


def type_of(failure: Failure) -> str:
    """Return the exception's class as OpenTelemetry names it."""
    return failure.type.replace(":", ".").removeprefix("builtins.")


def about_failure(failure: Failure) -> Iterator[tuple[str, AttributeValue]]:
    """Return the attributes of an exception event, by the semantic conventions."""
    yield "exception.type", type_of(failure)
    yield "exception.message", failure.message
    if failure.traceback:
        yield "exception.stacktrace", failure.traceback


def link_to(context: TraceContext, attributes: dict[str, AttributeValue]) -> Link:
    """Return a link to a span elsewhere."""
    return Link(span_context(context, is_remote=True), attributes)
