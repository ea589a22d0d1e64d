"""Trace contexts as values: where a run and its operations stand in a distributed trace.

The format of ``traceparent`` is that of W3C Trace Context, https://www.w3.org/TR/trace-context/. The ids of a run's
operations derive from the run's own, so that every process that works on it comes to the same ones.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

TRACEPARENT, TRACESTATE, BAGGAGE = "traceparent", "tracestate", "baggage"
TRACE_HEADERS = (TRACEPARENT, TRACESTATE, BAGGAGE)
_PARTS = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_SPAN_ID = 8
_TRACE_ID = 16
_LONGEST = 8_192
"""Bytes of ``tracestate`` or ``baggage`` that are carried; the specifications ask for 512 and 8,192 at least."""


class TraceContext(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One span's place: its own ids as a W3C ``traceparent``, and the id of its parent, if it has one.

    Attributes:
        traceparent: ``00-<trace id>-<span id>-<flags>`` of the span itself.
        parent: The span id of its parent, in the same trace; empty: it is the root.
        tracestate: What vendors send along.
        baggage: What applications send along, as a W3C ``baggage`` header.
    """

    traceparent: str
    parent: str = ""
    tracestate: str = ""
    baggage: str = ""

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """The span's id, 16 hexadecimal digits."""
        return self.traceparent[36:52]

    @property
    def is_sampled(self) -> bool:
        """Whether the span is to be recorded."""
        return bool(int(self.traceparent[53:55], 16) & _SAMPLED)

    def child(self, *names: object) -> TraceContext:
        """Return the place of a span below this one; the same for the same names."""
        span_id = _digest(_SPAN_ID, self.traceparent, *names)
        traceparent = f"{self.traceparent[:36]}{span_id}{self.traceparent[52:55]}"
        return TraceContext(traceparent, self.span_id, self.tracestate, self.baggage)

    def headers(self) -> dict[str, str]:
        """Return the context as the headers of a message."""
        values = zip(TRACE_HEADERS, (self.traceparent, self.tracestate, self.baggage), strict=True)
        return {name: value for name, value in values if value}

    def encode(self) -> str:
        """Return the context as it is stored with an instance."""
        return msgspec.json.encode(self).decode()


def new_root(*names: object, is_sampled: bool = True) -> TraceContext:
    """Return the place of a trace's first span; the same for the same names."""
    trace_id = _digest(_TRACE_ID, "trace", *names)
    return TraceContext(f"00-{trace_id}-{_digest(_SPAN_ID, 'root', *names)}-{int(is_sampled):02x}")


def context_of_run(stored: str | None, execution_id: int, run: int) -> TraceContext:
    """Return the place of a run's span.

    A run that `recur` has opened begins a trace of its own: one that goes on for months must not be one trace.

    Args:
        stored: What is stored with the instance; None, or something that can't be read: nothing.
        execution_id: The start's random number.
        run: The run's number.
    """
    first = _decode(stored)
    if first is None:
        return new_root(execution_id, run)
    if run == 0:
        return first
    later = new_root(first.traceparent, run, is_sampled=first.is_sampled)
    return msgspec.structs.replace(later, baggage=first.baggage)


def context_in(headers: Mapping[str, str]) -> TraceContext | None:
    """Return the place of the span that has sent a message; None: its headers tell of none that can be used."""
    traceparent = headers.get(TRACEPARENT, "")
    if not is_traceparent(traceparent):
        return None
    tracestate, baggage = (_bounded(headers.get(name, "")) for name in (TRACESTATE, BAGGAGE))
    return TraceContext(traceparent[:55], "", tracestate, baggage)


def is_traceparent(text: str) -> bool:
    """Tell whether a text is a ``traceparent`` that can be used."""
    found = _PARTS.fullmatch(text)
    if found is None:
        return False
    version, trace_id, span_id, _, rest = found.groups()
    return version != "ff" and bool(int(trace_id, 16) and int(span_id, 16)) and (rest is None or version != "00")


given_parent: ContextVar[TraceContext | None] = ContextVar("romancy_given_parent", default=None)
"""The span, of elsewhere, that what is started and sent here belongs below; None: the current one."""


def _decode(stored: str | None) -> TraceContext | None:
    if stored is None:
        return None
    try:
        context = msgspec.json.decode(stored, type=TraceContext)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return context if is_traceparent(context.traceparent) else None


def _bounded(value: str) -> str:
    return value if len(value) <= _LONGEST else ""


def _digest(size: int, *names: object) -> str:
    """Return a number as hexadecimal digits; zero is no id."""
    digest = blake2b("/".join(map(str, names)).encode("utf-8", "surrogatepass"), digest_size=size).hexdigest()
    return digest if digest.strip("0") else "1".zfill(2 * size)
