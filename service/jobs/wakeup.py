"""Telling idle workers that jobs were committed: at once in this process, by NOTIFY in others.

A wake-up is a courtesy. Polling is the truth that a lost one falls back on.
"""

import asyncio
import functools
import json
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from service.db.engine import DATABASE_ERRORS, Database
from service.db.notify import listen
from service.errors import InvalidInput
from service.jobs.loops import Pause
from service.jobs.store import Lane
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

CHANNEL: Final = "finmind_jobs"
COALESCE_SECONDS: Final = 0.002
RECONNECT_LONGEST_SECONDS: Final = 1.0
MAX_LANES: Final = 100
"""Lanes named in one notification; with more, the listener looks for itself."""
MAX_NOTIFY_BYTES: Final = 7999
"""PostgreSQL refuses longer ones."""

_log = get_logger(__name__)
_listeners: weakref.WeakSet["Subscription"] = weakref.WeakSet()
_senders: weakref.WeakKeyDictionary[Engine, "Sender"] = weakref.WeakKeyDictionary()


class Subscription:
    """A worker of this process that wants to be told of lanes with new jobs."""

    def __init__(self, callback: Callable[[Iterable[Lane]], None]) -> None:
        self.callback = callback
        _listeners.add(self)

    def close(self) -> None:
        """Hear no more."""
        _listeners.discard(self)


class Sender:
    """Sends one NOTIFY for all that was committed within two milliseconds."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._lanes: set[Lane] = set()
        self._task: asyncio.Task[None] | None = None

    def announce(self, lanes: Iterable[Lane]) -> None:
        """Tell the workers of every process; returns at once. Needs a running event loop."""
        self._lanes.update(lanes)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send(), name="jobs.notify")

    async def _send(self) -> None:
        while self._lanes:
            await asyncio.sleep(COALESCE_SECONDS)
            lanes, self._lanes = self._lanes, set()
            try:
                # From a connection of its own and after the commit: NOTIFY inside the writing
                # transaction would make all commits wait for one lock.
                async with self._engine.connect() as connection:
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.execute(
                        text("SELECT pg_notify(:channel, :lanes)"),
                        {"channel": CHANNEL, "lanes": encode(lanes)},
                    )
            except Exception as error:
                record_database_error("notify")
                _log.warning("notify_failed", error=type(error).__name__)

    async def close(self) -> None:
        """Send what is left, waiting a second at most."""
        if self._task is not None and not self._task.done():
            with suppress(TimeoutError, asyncio.CancelledError, *DATABASE_ERRORS):
                await asyncio.wait_for(self._task, 1)


def sender_for(engine: AsyncEngine) -> Sender:
    """The one sender of this engine."""
    sender = _senders.get(engine.sync_engine)
    if sender is None:
        sender = _senders[engine.sync_engine] = Sender(engine)
    return sender


def wake_local(lanes: Iterable[Lane]) -> None:
    """Wake the workers of this process."""
    for listener in list(_listeners):
        listener.callback(lanes)


def announce(engine: AsyncEngine, lanes: Iterable[Lane]) -> None:
    """Wake every worker: jobs in these lanes were committed just now."""
    wake_local(lanes)
    sender_for(engine).announce(lanes)


def announce_after_commit(
    session: AsyncSession | AsyncConnection, engine: AsyncEngine, lanes: Iterable[Lane]
) -> None:
    """Wake every worker once the caller's transaction has committed; never if it does not.

    A bare asyncpg connection has no such hook: its jobs are found by polling.
    """
    _hook_commits()
    info = session.sync_session.info if isinstance(session, AsyncSession) else _info(session)
    _, waiting = info.setdefault(_WAITING, (engine, set()))
    waiting.update(lanes)


_WAITING: Final = "finmind_jobs.waiting"


@functools.cache
def _hook_commits() -> None:
    """Listen to every session and connection of the process, once: cheaper than per transaction."""

    def session_committed(session: Session) -> None:
        # A savepoint's commit comes here too; what counts is the outermost transaction's.
        if not session.in_nested_transaction():
            _announce_waiting(session.info)

    def session_rolled_back(session: Session) -> None:
        # A savepoint's rollback leaves the rest of the transaction standing.
        if not session.in_nested_transaction():
            session.info.pop(_WAITING, None)

    def connection_committed(connection: Connection) -> None:
        _announce_waiting(connection.info)

    def connection_rolled_back(connection: Connection) -> None:
        connection.info.pop(_WAITING, None)

    event.listen(Session, "after_commit", session_committed)
    event.listen(Session, "after_rollback", session_rolled_back)
    event.listen(Engine, "commit", connection_committed)
    event.listen(Engine, "rollback", connection_rolled_back)


def _announce_waiting(info: dict[Any, Any]) -> None:
    waiting = info.pop(_WAITING, None)
    if waiting is not None:
        announce(*waiting)


def _info(connection: AsyncConnection) -> dict[Any, Any]:
    sync_connection = connection.sync_connection
    if sync_connection is None:
        raise InvalidInput("the connection is not open: use it inside `async with`")
    return sync_connection.info


async def hear(database: Database, wake: Callable[[Iterable[Lane]], None]) -> None:
    """Call `wake` for each notification, until cancelled; listens again whenever it is cut off."""
    pause = Pause(longest_seconds=RECONNECT_LONGEST_SECONDS)

    def heard(payload: str) -> None:
        pause.reset()
        wake(decode(payload))

    while True:
        try:
            await listen(database, CHANNEL, heard)
            reason = "cut off"
        except DATABASE_ERRORS as error:
            reason = type(error).__name__
        record_database_error("listen")
        _log.warning("listen_failed", error=reason)
        await pause.wait()


def encode(lanes: Iterable[Lane]) -> str:
    """A notification's text; empty where it would be too long to name every lane."""
    named = sorted(lanes)
    text = json.dumps(named) if len(named) <= MAX_LANES else "[]"
    return text if len(text) <= MAX_NOTIFY_BYTES else "[]"


def decode(payload: str) -> list[Lane]:
    """The lanes that a notification names; none where it is empty or not ours."""
    try:
        return [Lane(str(queue), int(priority)) for queue, priority in json.loads(payload)]
    except (ValueError, TypeError):
        return []
