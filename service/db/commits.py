"""Calling something once a caller's transaction has committed, and never if it does not."""

import functools
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from service.db.session import CallerSession
from service.errors import InvalidInput

_WAITING: Final = "finmind_jobs.after_commit"


def after_commit(session: CallerSession, call: Callable[[], None]) -> bool:
    """Have `call` called when the transaction of `session` commits.

    Returns:
        False for an asyncpg connection, which has no such hook: `call` is not called.
    """
    if not isinstance(session, AsyncSession | AsyncConnection):
        return False
    _hook_commits()
    info = session.sync_session.info if isinstance(session, AsyncSession) else _info(session)
    info.setdefault(_WAITING, []).append(call)
    return True


@functools.cache
def _hook_commits() -> None:
    """Listen to every session and connection of the process, once: cheaper than per transaction."""

    def session_committed(session: Session) -> None:
        # A savepoint's commit comes here too; what counts is the outermost transaction's.
        if not session.in_nested_transaction():
            _call_waiting(session.info)

    def session_rolled_back(session: Session) -> None:
        # A savepoint's rollback leaves the rest of the transaction standing.
        if not session.in_nested_transaction():
            session.info.pop(_WAITING, None)

    def connection_committed(connection: Connection) -> None:
        if not connection.invalidated:
            _call_waiting(connection.info)

    def connection_rolled_back(connection: Connection) -> None:
        # `info` of a connection that was cut raises, and would hide why it was cut. What waited
        # there went with it.
        if not connection.invalidated:
            connection.info.pop(_WAITING, None)

    event.listen(Session, "after_commit", session_committed)
    event.listen(Session, "after_rollback", session_rolled_back)
    event.listen(Engine, "commit", connection_committed)
    event.listen(Engine, "rollback", connection_rolled_back)


def _call_waiting(info: dict[Any, Any]) -> None:
    for call in info.pop(_WAITING, ()):
        call()


def _info(connection: AsyncConnection) -> dict[Any, Any]:
    sync_connection = connection.sync_connection
    if sync_connection is None:
        raise InvalidInput("the connection is not open: use it inside `async with`")
    return sync_connection.info
