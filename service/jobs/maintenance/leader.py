"""Elect the leader: the one process of all that does the maintenance."""

import time
from typing import Final

import asyncpg

from service.db.engine import Database
from service.jobs import store
from service.observability.logging import get_logger
from service.observability.metrics import WORKER_LEADER
from service.settings import Settings

VANISHED_SECONDS: Final = 60.0
"""How long the server keeps the lock of a leader that sends nothing. One whose machine lost its power
or its network closes no connection: TCP would notice after two hours, and nobody would lead
meanwhile. One that was merely slow leads again, or another does: each duty may be done twice."""

_log = get_logger(__name__)


class Leader:
    """Holds the leadership while it can: a lock in a transaction that stays open."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._link = database.link()
        self._vanished_seconds = max(VANISHED_SECONDS, 2 * settings.maintenance_seconds)
        self._next_keepalive = 0.0
        self.since: float | None = None
        """When (monotonic) this process began to lead; None while it does not."""

    async def lead(self) -> bool:
        """Take the leadership, or keep it; whether this process leads.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        connection = await self._link.connection()
        if self.since is not None:
            if connection.is_in_transaction():
                if time.monotonic() >= self._next_keepalive:
                    await self._keep_alive(connection)
                return True
            # Another connection: the lock went with the old one.
            self.step_down()
            connection = await self._link.connection()
        if not await store.leadership.take(
            connection, schema=self._database.schema, idle_seconds=self._vanished_seconds
        ):
            return False
        await self._keep_alive(connection)
        self.since = time.monotonic()
        WORKER_LEADER.set(1)
        _log.info("maintenance_leader")
        return True

    async def _keep_alive(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        await store.leadership.keep_alive(connection)
        self._next_keepalive = time.monotonic() + VANISHED_SECONDS / 4

    def step_down(self) -> None:
        """Give up the leadership at once, if this process has it."""
        self._link.drop()
        self.since = None
        WORKER_LEADER.set(0)

    async def close(self) -> None:
        """Close the connection, and the leadership with it."""
        await self._link.close()
