"""Calling something once a caller's transaction has committed, and never if it does not."""

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Engine, PoolProxiedConnection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db.session import CallerSession
from service.errors import InvalidInput

_WAITING: Final = "finmind_jobs.after_commit"
_SAVEPOINTS: Final = "finmind_jobs.savepoints"
"""How many calls waited when each open savepoint began."""

_hooked: Final[weakref.WeakSet[Dialect]] = weakref.WeakSet()
_log = logging.getLogger(__name__)


async def after_commit(session: CallerSession, call: Callable[[], None]) -> bool:
    """Have `call` called when the transaction of `session` has committed, outermost of all.

    If a transaction or savepoint is rolled back, the calls registered in it are dropped.

    Returns:
        False for an asyncpg connection, which has no such hook: `call` is not called.
    """
    if isinstance(session, AsyncSession):
        session = await session.connection()
    if not isinstance(session, AsyncConnection):
        return False
    connection = session.sync_connection
    if connection is None:
        raise InvalidInput("The connection is not open: use it inside `async with`")
    _hook_transactions()
    _hook_commits(connection.dialect)
    connection.info.setdefault(_WAITING, []).append(call)
    return True


def _hook_commits(dialect: Dialect) -> None:
    """Call what waits when a commit of this dialect has succeeded.

    SQLAlchemy's own event of a connection comes before the commit, which may still fail, and its event
    of a session does not cover a session inside another owner's transaction.
    """
    if dialect in _hooked:
        return
    _hooked.add(dialect)
    commit = dialect.do_commit

    def do_commit(dbapi_connection: PoolProxiedConnection) -> None:
        waiting = dbapi_connection.info.pop(_WAITING, ())
        commit(dbapi_connection)
        for call in waiting:
            try:
                call()
            except Exception:
                # The rows are there: an error would tell the caller that they are not.
                _log.exception("after_commit_failed")

    dialect.do_commit = do_commit  # type: ignore[method-assign]


@functools.cache
def _hook_transactions() -> None:
    """Listen to every connection of the process, once: cheaper than per transaction."""

    def begun(connection: Connection) -> None:
        # Also after a transaction that ended in any other way than by a commit.
        info = _info(connection)
        info.pop(_WAITING, None)
        info.pop(_SAVEPOINTS, None)

    def savepoint_begun(connection: Connection, _name: str | None) -> None:
        info = _info(connection)
        info.setdefault(_SAVEPOINTS, []).append(len(info.get(_WAITING, ())))

    def savepoint_released(connection: Connection, _name: str, _context: None) -> None:
        _waiting_before(_info(connection))

    def savepoint_rolled_back(connection: Connection, _name: str, _context: None) -> None:
        info = _info(connection)
        before = _waiting_before(info)
        del info.get(_WAITING, [])[before:]

    event.listen(Engine, "begin", begun)
    event.listen(Engine, "savepoint", savepoint_begun)
    event.listen(Engine, "release_savepoint", savepoint_released)
    event.listen(Engine, "rollback_savepoint", savepoint_rolled_back)


def _waiting_before(info: dict[Any, Any]) -> int:
    """How many calls waited when the innermost savepoint began, which has ended now."""
    marks: list[int] = info.get(_SAVEPOINTS, [])
    return marks.pop() if marks else 0


def _info(connection: Connection) -> dict[Any, Any]:
    # That of a connection that was cut raises, and would hide why it was cut.
    return {} if connection.invalidated else connection.info
