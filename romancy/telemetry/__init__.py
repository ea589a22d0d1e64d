"""OpenTelemetry: traces and metrics of what happens in an App."""

from __future__ import annotations

from romancy.telemetry.opentelemetry import OpenTelemetry

__all__ = ["OpenTelemetry"]
