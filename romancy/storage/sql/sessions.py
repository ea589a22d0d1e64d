"""Statements on workers' sessions."""

from __future__ import annotations

from romancy.storage.sql import insert

INSERT = insert("sessions", ("expires_at", "build", "definitions", "runtime", "host", "pid", "process", "started_at"))

RENEW = "UPDATE sessions SET expires_at = ? WHERE id = ? AND expires_at > ?"

IS_LIVE = "SELECT runtime, build FROM sessions WHERE id = ? AND expires_at > ?"

EXPIRED = "SELECT id FROM sessions WHERE expires_at <= ?"

PROCESSES = "SELECT id, process FROM sessions WHERE process <> ''"

LIVE_DEFINITIONS = "SELECT definitions FROM sessions WHERE expires_at > ?"

DELETE = "DELETE FROM sessions WHERE id = ?"
