"""What the errors of a PostgreSQL connection mean for whoever wanted something."""

from __future__ import annotations

import asyncpg

LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
    OSError,
    TimeoutError,
)
"""The connection is of no use any more, or never was: the next one may be."""

RAISED = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Everything that asyncpg raises."""

CONTENDED = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,
)
"""Somebody else was in the way; the transaction has done nothing and can begin again."""

REFUSALS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""A value can't be taken: not by the server, or not by asyncpg. Anything else is about the database."""

TRANSACTION_TIMEOUT = "25P04"
"""The code of an error for which asyncpg has no class of its own."""


def is_lost(error: BaseException) -> bool:
    """Say whether a connection is of no use after an error.

    asyncpg's complaints about a value are `asyncpg.InterfaceError` too, and are not meant.
    """
    if isinstance(error, REFUSALS):
        return False
    return isinstance(error, LOST) or getattr(error, "sqlstate", None) == TRANSACTION_TIMEOUT
