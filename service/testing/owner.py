"""Whose transaction a test runs in: that of a session or a connection of the application's tests, or of ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from service.db.engine import Database
from service.db.session import CallerSession, schema_of
from service.errors import ConfigurationError
from service.testing.settings import settings_of

_TRANSACTION: Final = text(
    "SELECT pg_current_xact_id()::text AS this, pg_xact_status(CAST(:before AS text)::xid8) AS before"
)


@asynccontextmanager
async def connection_to(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is rolled back."""
    database = Database(url, settings_of())
    try:
        async with database.engine.connect() as connection:
            await connection.begin()
            try:
                yield connection
            finally:
                await connection.rollback()
    finally:
        await database.close()


class Owner:
    """The holder of a test's transaction, which is asked for its connection before each use.

    A session may end its transaction, by a rollback in the code that is tested, and begin another.
    """

    def __init__(self, session: CallerSession) -> None:
        self._session = session
        self._adopted: AsyncConnection | None = None
        self._transaction: str | None = None

    async def connection(self) -> AsyncConnection:
        """The connection, in a transaction that has begun.

        Raises:
            InvalidInput: the session is of another library.
            ConfigurationError: it has no job tables, no transaction, or the one before was committed.
        """
        connection = await self._opened()
        # The first statement begins the transaction, and not the call before it.
        asked = await connection.execute(_TRANSACTION, {"before": self._transaction})
        row = asked.one()
        if not (await _driver_of(connection)).is_in_transaction():
            raise ConfigurationError(
                "The connection commits each statement by itself, expected one in a transaction that is rolled "
                "back at the end of the test: open it without AUTOCOMMIT"
            )
        if row.before == "committed":
            raise ConfigurationError(
                "The transaction of this test was committed, and what it wrote stays in the database: open the "
                "sessions of the application on the connection of the test, by "
                'AsyncSession(connection, join_transaction_mode="create_savepoint")'
            )
        self._transaction = row.this
        return connection

    async def driver(self) -> "asyncpg.Connection[asyncpg.Record]":
        """What is below it: the connection of asyncpg."""
        return await _driver_of(await self._opened())

    async def check(self) -> None:
        """Look once more whether the transaction was committed; see `connection`."""
        if self._transaction is not None:
            await self.connection()

    async def close(self) -> None:
        """Leave the connection to its owner."""
        adopted, self._adopted = self._adopted, None
        if adopted is not None:
            await adopted.close()

    async def _opened(self) -> AsyncConnection:
        if isinstance(self._session, AsyncSession):
            # Of a session that joined a connection, that: a savepoint of the session may be rolled back.
            bind = self._session.bind
            return bind if isinstance(bind, AsyncConnection) else await self._session.connection()
        if isinstance(self._session, AsyncConnection):
            return self._session
        if self._adopted is None:
            await schema_of(self._session)  # refuses what is no connection of asyncpg
            self._adopted = await _adopt(self._session)
        return self._adopted


async def _driver_of(connection: AsyncConnection) -> "asyncpg.Connection[asyncpg.Record]":
    raw: Any = (await connection.get_raw_connection()).driver_connection
    if isinstance(raw, asyncpg.Connection):
        return raw
    await schema_of(connection)  # refuses every other driver
    raise AssertionError(raw)


async def _adopt(raw: "asyncpg.Connection[asyncpg.Record]") -> AsyncConnection:
    """SQLAlchemy's view of a connection that asyncpg opened; its transaction is a savepoint there."""
    if not raw.is_in_transaction():
        raise ConfigurationError(
            "The asyncpg connection is in no transaction, expected one that is rolled back at the end of the "
            "test: transaction = connection.transaction(); await transaction.start()"
        )

    async def give(**_: Any) -> "asyncpg.Connection[asyncpg.Record]":
        # A pool lends a wrapper, which SQLAlchemy does not take.
        return getattr(raw, "_con", raw)

    engine = create_async_engine(
        "postgresql+asyncpg://", connect_args={"async_creator_fn": give}, poolclass=StaticPool
    )
    return await engine.connect()
