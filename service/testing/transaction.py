"""The engine on the one connection of a test, inside its transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, async_sessionmaker

from service.db.connection import Link
from service.db.engine import Database
from service.db.session import schema_of
from service.errors import ConfigurationError
from service.settings import Settings
from service.testing.clock import Clock
from service.testing.owner import Owner

OF_HANDLERS: Final = frozenset({"progress", "steps", "parents"})
"""Duties that a running handler waits for: it does not use the connection meanwhile."""


class TransactionDatabase(Database):
    """A `Database` whose links and sessions are savepoints in the transaction of a test.

    One uses the connection at a time: a handler for as long as it runs, or the engine for a statement. What a
    handler waits for comes in between.
    """

    def __init__(self, owner: Owner, settings: Settings, clock: Clock) -> None:
        super().__init__("postgresql:///", settings)  # opens nothing
        self._owner = owner
        self._clock = clock
        self._turn = asyncio.Lock()
        self._turn_within = asyncio.Lock()
        """Of what a handler waits for."""
        self._handler_runs = False

    async def renew(self) -> AsyncConnection:
        """The connection, with a transaction that has begun and sees the clock; sessions are opened on it from now on.

        Raises:
            ConfigurationError: see `Owner.connection`; or the role may not make the clock.
        """
        connection = await self._owner.connection()
        await self._clock.set(connection)
        self._use_schema(await schema_of(connection))
        self.sessions = async_sessionmaker(
            bind=connection, join_transaction_mode="create_savepoint", expire_on_commit=False
        )
        return connection

    @asynccontextmanager
    async def handler(self) -> AsyncIterator[None]:
        """Have the connection for a handler."""
        async with self._turn:
            self._handler_runs = True
            try:
                yield
            finally:
                self._handler_runs = False

    async def connect(self, **_: Any) -> "asyncpg.Connection[asyncpg.Record]":
        """Refuse: nothing of a test leaves its transaction."""
        raise ConfigurationError(
            "A test has one connection, and no other is opened: run a service to try what needs more"
        )

    def link(self, *, duty: str = "", **_: Any) -> Link:
        """A link to the connection of the test."""
        return TransactionLink(self, duty=duty)

    async def driver(self) -> "asyncpg.Connection[asyncpg.Record]":
        """The connection of the test, in its transaction."""
        return await self._owner.driver()

    @asynccontextmanager
    async def turn(self, duty: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Have the connection for a statement, or for several, in a savepoint."""
        within = self._handler_runs and duty in OF_HANDLERS
        async with self._turn_within if within else self._turn:
            connection = await self.driver()
            async with connection.transaction():
                yield connection


class TransactionLink(Link):
    """A `Link` to the connection of a test: each statement in a savepoint, as it has a transaction elsewhere."""

    def __init__(self, database: TransactionDatabase, *, duty: str) -> None:
        super().__init__(database)
        self._turn = partial(database.turn, duty)
        self._driver = database.driver

    async def connection(self) -> "asyncpg.Connection[asyncpg.Record]":
        """The open connection."""
        return await self._driver()

    async def fetch(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """Run one statement. Once begun it is carried out, though who asked for it is cancelled."""

        async def run() -> list[asyncpg.Record]:
            async with self._turn() as connection:
                return await connection.fetch(self.render(statement), *args)

        return await asyncio.shield(asyncio.create_task(run(), name="jobs.testing"))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Several statements in one savepoint."""
        async with self._turn() as connection:
            yield connection

    def drop(self) -> None:
        """Keep it: it is the test's."""

    async def close(self) -> None:
        """Keep it open, for the same reason."""
