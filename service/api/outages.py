"""What to answer when the database failed: whose fault it is, and what the caller can do."""

from typing import Final

import asyncpg
from fastapi import Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.errors import Unavailable

RETRY_AFTER_SECONDS: Final = 2
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing: asking again is always safe."""

# SQLSTATE classes and codes that pass by themselves: connection, resources, operator, conflict of
# transactions, a standby, a role or database that is just being set up or closed to connections. The
# rest are our mistakes.
_PASSING_CLASSES: Final = frozenset({"08", "53", "57", "58", "40", "28"})
_PASSING_CODES: Final = frozenset({"55P03", "25006", "3D000", "55000"})
_QUERY_CANCELED: Final = "57014"

_SLOW: Final = "The database did not answer in time."
_DOWN: Final = "The database cannot answer just now."
_BUSY: Final = "Every database connection of this process is busy."

_NO_FILTERS: Final = frozenset({"wait"})
"""Query parameters of reads that are no lists."""

_AGAIN: Final = "Try again shortly."
_NARROW: Final = (
    "Narrow the filter (a status, a job type, a shorter period), or try again when it is less busy."
)
_WITH_KEY: Final = (
    "The change may or may not have been made: send the request again with the same "
    "Idempotency-Key or unique_key; without one, first check whether it was."
)
_LOOK_FIRST: Final = (
    "The change may or may not have been made: first check whether it was, then send the request "
    "again if not."
)


def database_problem(error: BaseException, request: Request) -> Unavailable | None:
    """What to answer to `request` when the database failed; None where the fault is ours."""
    what = _what_failed(error)
    if what is None:
        return None
    return Unavailable(
        f"{what} {_advice(request, slow=what is _SLOW)}", retry_after_seconds=RETRY_AFTER_SECONDS
    )


def _advice(request: Request, *, slow: bool) -> str:
    dependant = getattr(request.scope.get("route"), "dependant", None)
    if request.method in READING:
        parameters = {param.alias for param in getattr(dependant, "query_params", ())}
        return _NARROW if slow and parameters - _NO_FILTERS else _AGAIN
    headers = {param.alias.lower() for param in getattr(dependant, "header_params", ())}
    return _WITH_KEY if "idempotency-key" in headers else _LOOK_FIRST


def _what_failed(error: BaseException) -> str | None:
    if isinstance(error, PoolTimeoutError):
        return _BUSY
    code = sqlstate_of(error)
    root = error.orig if isinstance(error, DBAPIError) else error
    if code == _QUERY_CANCELED or isinstance(root, TimeoutError):
        return _SLOW
    passing = (
        isinstance(root, OSError)
        or (isinstance(error, DBAPIError) and error.connection_invalidated)
        or (code is not None and (code[:2] in _PASSING_CLASSES or code in _PASSING_CODES))
        or _is_closed_connection(root)
    )
    return _DOWN if passing else None


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of a database error, through SQLAlchemy's wrapping."""
    cause: BaseException | None = error
    for _ in range(4):
        if isinstance(cause, DBAPIError):
            cause = cause.orig
        code = getattr(cause, "sqlstate", None)
        if isinstance(code, str):
            return code
        cause = getattr(cause, "__cause__", None)
    return None


def _is_closed_connection(root: BaseException | None) -> bool:
    # asyncpg says "connection is closed" with the class that it uses for wrong calls too; those
    # of the arguments (DataError) are ValueErrors.
    cause = root
    for _ in range(3):
        if isinstance(cause, asyncpg.InterfaceError) and not isinstance(cause, ValueError):
            return "clos" in str(cause)
        cause = getattr(cause, "__cause__", None)
    return False
