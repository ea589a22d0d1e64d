"""Durable workflows: plain asyncio that survives a crash."""

from __future__ import annotations

from romancy.activities.context import ActivityInfo, activity_info
from romancy.activities.heartbeat import complete_later, heartbeat
from romancy.activities.transaction import Connection, SqlResult, connection
from romancy.app import App
from romancy.client.bulk import Bulk, BulkProgress, Matching
from romancy.client.client import Client
from romancy.client.handle import Handle
from romancy.client.info import ChildInfo, HistoryEvent, InstanceInfo, RunInfo, SavedEvent, SavedHistory
from romancy.client.timeline import Happening
from romancy.core.calls import Call
from romancy.core.definitions import activity, workflow
from romancy.core.hooks import Hooks
from romancy.core.retry import RetryPolicy
from romancy.errors import (
    ActivityFailedError,
    ActivityTimedOutError,
    ChannelModeError,
    ChildWorkflowFailedError,
    CodecError,
    CompensationError,
    DefinitionError,
    InstanceAlreadyExistsError,
    InstanceClosedError,
    InstanceNotFoundError,
    InstanceRunningError,
    NoAppError,
    NondeterminismError,
    NonRetryableError,
    NotInWorkflowError,
    OutsideWorkflowError,
    PayloadTooLargeError,
    RetryAfter,
    RomancyError,
    SchemaVersionError,
    SessionLostError,
    StorageError,
    WorkflowBlockedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
)
from romancy.logging import logger
from romancy.replay.suspend import SuspendKind, SuspendSignal, as_suspend_signal, is_suspend_signal
from romancy.workflows.channels import Channel, Message
from romancy.workflows.children import ChildHandle, start_child
from romancy.workflows.completion import as_completed
from romancy.workflows.determinism import now, random, side_effect, sleep, sleep_until, uuid4
from romancy.workflows.info import WorkflowInfo, workflow_info
from romancy.workflows.recur import recur
from romancy.workflows.saga import compensate_with, saga
from romancy.workflows.selecting import select
from romancy.workflows.status import set_custom_status, set_tags
from romancy.workflows.subscriptions import Subscription
from romancy.workflows.versions import patched

__all__ = [
    "ActivityFailedError",
    "ActivityInfo",
    "ActivityTimedOutError",
    "App",
    "Bulk",
    "BulkProgress",
    "Call",
    "Channel",
    "ChannelModeError",
    "ChildHandle",
    "ChildInfo",
    "ChildWorkflowFailedError",
    "Client",
    "CodecError",
    "CompensationError",
    "Connection",
    "DefinitionError",
    "Handle",
    "Happening",
    "HistoryEvent",
    "Hooks",
    "InstanceAlreadyExistsError",
    "InstanceClosedError",
    "InstanceInfo",
    "InstanceNotFoundError",
    "InstanceRunningError",
    "Matching",
    "Message",
    "NoAppError",
    "NonRetryableError",
    "NondeterminismError",
    "NotInWorkflowError",
    "OutsideWorkflowError",
    "PayloadTooLargeError",
    "RetryAfter",
    "RetryPolicy",
    "RomancyError",
    "RunInfo",
    "SavedEvent",
    "SavedHistory",
    "SchemaVersionError",
    "SessionLostError",
    "SqlResult",
    "StorageError",
    "Subscription",
    "SuspendKind",
    "SuspendSignal",
    "WorkflowBlockedError",
    "WorkflowCancelledError",
    "WorkflowFailedError",
    "WorkflowInfo",
    "WorkflowTerminatedError",
    "WorkflowTimedOutError",
    "activity",
    "activity_info",
    "as_completed",
    "as_suspend_signal",
    "compensate_with",
    "complete_later",
    "connection",
    "heartbeat",
    "is_suspend_signal",
    "logger",
    "now",
    "patched",
    "random",
    "recur",
    "saga",
    "select",
    "set_custom_status",
    "set_tags",
    "side_effect",
    "sleep",
    "sleep_until",
    "start_child",
    "uuid4",
    "workflow",
    "workflow_info",
]
