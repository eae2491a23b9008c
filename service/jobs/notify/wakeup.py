"""Telling idle workers that jobs were committed: at once in this process, by NOTIFY in others.

A wake-up is a courtesy. Polling is the truth that a lost one falls back on.
"""

import asyncio
import json
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from service.db import schema
from service.db.after_commit import after_commit
from service.db.connection import Link
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.db.listen import listen
from service.db.session import CallerSession
from service.jobs import store
from service.jobs.core.lane import Lane
from service.jobs.loops import Pause
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

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
        # Weakly: the sender is found by its engine, and must not keep it.
        self._engine = weakref.ref(engine.sync_engine)
        self._lanes: set[Lane] = set()
        self._task: asyncio.Task[None] | None = None

    def announce(self, lanes: Iterable[Lane], *, urgent: bool) -> None:
        """Tell the workers of every process; returns at once. Needs a running event loop.

        Where it is urgent the first is sent at once, and the others gather after it.
        """
        self._lanes.update(lanes)
        if self._task is None or self._task.done():
            sending = self._send(gather_first=not urgent)
            self._task = asyncio.get_running_loop().create_task(sending, name="jobs.notify")

    async def _send(self, *, gather_first: bool) -> None:
        if gather_first:
            await asyncio.sleep(COALESCE_SECONDS)
        while self._lanes:
            lanes, self._lanes = self._lanes, set()
            engine = self._engine()
            if engine is None:
                return
            try:
                # From a connection of its own and after the commit: NOTIFY inside the writing
                # transaction would make all commits wait for one lock.
                pool, sent = engine.pool, False
                channel = schema.channel(schema.recall(engine))
                async with AsyncEngine(engine).connect() as connection:
                    # The driver's own call: it has no transaction to begin and to end.
                    driver: Any = (await connection.get_raw_connection()).driver_connection
                    try:
                        await driver.execute(store.notify.NOTIFY, channel, encode(lanes))
                        sent = True
                    finally:
                        if not sent or engine.pool is not pool:
                            # Cut off, or its pool was closed meanwhile: nobody would close it.
                            driver.terminate()
            except Exception as error:
                record_database_error("notify")
                _log.warning("notify_failed", error=type(error).__name__)
            await asyncio.sleep(COALESCE_SECONDS)

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


def wake_local(lanes: Iterable[Lane]) -> bool:
    """Wake the workers of this process; whether there was one."""
    listeners = list(_listeners)
    for listener in listeners:
        listener.callback(lanes)
    return bool(listeners)


def announce(engine: AsyncEngine, lanes: Iterable[Lane]) -> None:
    """Wake every worker: jobs in these lanes were committed just now."""
    woken = wake_local(lanes)
    # A worker here is on its way already: the notification would only get in its way.
    sender_for(engine).announce(lanes, urgent=not woken)


async def announce_after_commit(session: CallerSession, lanes: Iterable[Lane]) -> None:
    """Wake every worker once the caller's transaction has committed; never if it does not.

    An asyncpg connection tells nobody when it commits: its jobs are found by polling.
    """
    if isinstance(session, AsyncSession):
        session = await session.connection()
    if isinstance(session, AsyncConnection):
        engine = session.engine
        await after_commit(session, lambda: announce(engine, lanes))


async def notify(link: Link, lanes: Iterable[Lane]) -> None:
    """Wake the workers that listen, from the caller's own connection, after its commit.

    Raises:
        DATABASE_ERRORS: it was not sent.
    """
    await link.fetch(store.notify.NOTIFY, schema.channel(link.schema), encode(lanes))


async def hear(database: Database, wake: Callable[[Iterable[Lane]], None]) -> None:
    """Call `wake` for each notification, until cancelled; listens again whenever it is cut off."""
    pause = Pause(longest_seconds=RECONNECT_LONGEST_SECONDS)

    def heard(payload: str) -> None:
        pause.reset()
        wake(decode(payload))

    while True:
        try:
            await listen(database, schema.channel(database.schema), heard)
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
