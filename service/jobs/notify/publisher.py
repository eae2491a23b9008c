"""Wake idle workers after a commit: at once in this process, by NOTIFY in others.

Notifications only reduce latency: workers also poll, so a lost one delays a job and never loses it.
"""

import asyncio
import secrets
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from service.db import schema
from service.db.after_commit import after_commit
from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.db.session import CallerSession
from service.jobs import store
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane
from service.jobs.notify.changes import Changes
from service.jobs.notify.followed import Followed
from service.jobs.notify.messages import (
    Cancel,
    Changed,
    Endings,
    Follow,
    Message,
    Moved,
    Policies,
    Schedules,
    Wake,
    Watch,
    encode,
)
from service.jobs.notify.subscriber import notify_local
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

COALESCE_SECONDS: Final = 0.002
"""Commits within this time share one notification."""

_log = get_logger(__name__)
_publishers: weakref.WeakKeyDictionary[Engine, "Publisher"] = weakref.WeakKeyDictionary()


class Publisher:
    """Sends one NOTIFY for all that was committed within two milliseconds; tells dashboards."""

    def __init__(self, engine: AsyncEngine) -> None:
        # Weakly: the publisher is found by its engine, and must not keep it.
        self._engine = weakref.ref(engine.sync_engine)
        self._lanes: set[Lane] = set()
        self._others: set[Message] = set()
        self._task: asyncio.Task[None] | None = None
        self.changes: Final = Changes(
            lambda: self.tell(Changed()), Followed(self.tell, name=secrets.token_hex(4))
        )

    def publish(self, lanes: Iterable[Lane], *, urgent: bool) -> None:
        """Tell the workers of every process; returns at once. Needs a running event loop.

        Where it is urgent the first is sent at once, and the others gather after it.
        """
        self._lanes.update(lanes)
        self._start(gather_first=not urgent)

    def tell(
        self, message: Policies | Watch | Changed | Endings | Schedules | Cancel | Follow | Moved
    ) -> None:
        """Send one message to every process; returns at once. Needs a running event loop."""
        self._others.add(message)
        self._start(gather_first=False)

    def _start(self, *, gather_first: bool) -> None:
        if self._task is None or self._task.done():
            sending = self._send(gather_first=gather_first)
            self._task = asyncio.get_running_loop().create_task(sending, name="jobs.notify")

    def _next(self) -> list[Message]:
        messages = [*self._others, *([Wake(tuple(self._lanes))] if self._lanes else [])]
        self._others, self._lanes = set(), set()
        return messages

    async def _send(self, *, gather_first: bool) -> None:
        if gather_first:
            await asyncio.sleep(COALESCE_SECONDS)
        while messages := self._next():
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
                        for message in messages:
                            await store.notify.send(driver, encode(message), channel=channel)
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
        self.changes.close()
        if self._task is not None and not self._task.done():
            with suppress(TimeoutError, asyncio.CancelledError, *DATABASE_ERRORS):
                await asyncio.wait_for(self._task, 1)


def publisher_for(engine: AsyncEngine) -> Publisher:
    """The one publisher of this engine."""
    publisher = _publishers.get(engine.sync_engine)
    if publisher is None:
        publisher = _publishers[engine.sync_engine] = Publisher(engine)
    return publisher


def publish(engine: AsyncEngine, lanes: Iterable[Lane]) -> None:
    """Wake every worker: jobs in these lanes were committed just now."""
    woken = notify_local(Wake(tuple(lanes)))
    # A worker here is on its way already: the notification would only get in its way.
    publisher_for(engine).publish(lanes, urgent=not woken)


async def publish_after_commit(session: CallerSession, lanes: Iterable[Lane]) -> None:
    """Wake every worker once the caller's transaction has committed; never if it does not.

    An asyncpg connection tells nobody when it commits: its jobs are found by polling.
    """
    if isinstance(session, AsyncSession):
        session = await session.connection()
    if isinstance(session, AsyncConnection):
        engine = session.engine
        await after_commit(session, lambda: publish(engine, lanes))


async def announce_after_commit(session: AsyncSession) -> None:
    """Tell open dashboards of a change once the caller's transaction has committed."""
    engine = (await session.connection()).engine
    await after_commit(session, publisher_for(engine).changes.announce)


async def publish_policies_after_commit(session: AsyncSession) -> None:
    """Have every worker read what queues allow, once the caller's transaction has committed."""
    connection = await session.connection()
    publisher = publisher_for(connection.engine)

    def publish_policies() -> None:
        notify_local(Policies())
        publisher.tell(Policies())
        publisher.changes.announce()

    await after_commit(connection, publish_policies)


async def publish_schedules_after_commit(session: AsyncSession) -> None:
    """Have every process see when the next schedule is due, once the caller's transaction has committed."""
    connection = await session.connection()
    publisher = publisher_for(connection.engine)

    def publish_schedules() -> None:
        notify_local(Schedules())
        publisher.tell(Schedules())
        publisher.changes.announce()

    await after_commit(connection, publish_schedules)


async def publish_endings_after_commit(session: CallerSession) -> None:
    """Have a worker look at jobs that others wait for, once the caller's transaction has committed.

    After an asyncpg connection's commit the leader finds them.
    """
    if isinstance(session, AsyncSession):
        session = await session.connection()
    if isinstance(session, AsyncConnection):
        publisher = publisher_for(session.engine)

        def publish_endings() -> None:
            if not notify_local(Endings()):
                publisher.tell(Endings())

        await after_commit(session, publish_endings)


async def publish_cancel_after_commit(session: AsyncSession, ids: Iterable[JobId]) -> None:
    """Have the workers of these jobs look at them, once the caller's transaction has committed."""
    connection = await session.connection()
    publisher = publisher_for(connection.engine)
    message = Cancel(tuple(sorted(ids)))

    def publish_cancel() -> None:
        notify_local(message)
        publisher.tell(message)
        publisher.changes.announce()

    await after_commit(connection, publish_cancel)


async def publish_cancel_over(link: Link, ids: Iterable[JobId]) -> None:
    """Have the workers of these jobs look at them, from the caller's own connection, after its commit.

    Raises:
        DATABASE_ERRORS: it was not sent; their heartbeats tell them.
    """
    message = Cancel(tuple(sorted(ids)))
    await store.notify.send(link, encode(message), channel=schema.channel(link.schema))


async def publish_over(link: Link, lanes: Iterable[Lane]) -> None:
    """Wake the workers that listen, from the caller's own connection, after its commit.

    Raises:
        DATABASE_ERRORS: it was not sent.
    """
    await store.notify.send(link, encode(Wake(tuple(lanes))), channel=schema.channel(link.schema))
