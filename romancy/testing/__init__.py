"""For tests: of workflows (`TestEnvironment`, `replay`), and of storages (`romancy.testing.storage_suite`)."""

from __future__ import annotations

from romancy.client.replaying import replay, saved_cases
from romancy.testing.environment import TestEnvironment
from romancy.testing.stubs import ActivityCalled, Stub

__all__ = ["ActivityCalled", "Stub", "TestEnvironment", "replay", "saved_cases"]
