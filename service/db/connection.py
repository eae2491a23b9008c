"""One connection for one duty."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from service.db import schema
from service.db.errors import DATABASE_ERRORS, as_cut_off

if TYPE_CHECKING:
    from service.db.engine import Database


class Link:
    """One connection for one duty: opened when first used, dropped when it fails, opened again.

    The duties of a worker (claim, settle, heartbeat, listen, maintain) each hold one, so that
    none waits for another, or for requests. `timeout_seconds` limits a whole `fetch` or `transaction`,
    including the wait for its turn and for a new connection. After `statement_seconds` PostgreSQL cancels a statement: if
    that comes before the client gives up, it is certain that nothing was done.
    """

    def __init__(
        self,
        database: "Database",
        *,
        timeout_seconds: float | None = None,
        statement_seconds: float | None = None,
    ) -> None:
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._statement_seconds = statement_seconds
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._lock = asyncio.Lock()

    async def connection(self) -> "asyncpg.Connection[asyncpg.Record]":
        """The open connection."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._database.connect(
                settled_plans=True, statement_seconds=self._statement_seconds
            )
        return self._connection

    @property
    def schema(self) -> str:
        """The schema of the tables, known from the first connection on."""
        return self._database.schema

    def render(self, statement: str) -> str:
        """The statement for the schema that the tables are in."""
        return schema.render(statement, self.schema)

    async def fetch(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """Run one statement in a transaction of its own.

        Raises:
            asyncpg.PostgresError | asyncpg.InterfaceError | OSError | TimeoutError:
                see `DATABASE_ERRORS`; the connection is dropped unless the server merely
                refused the statement.
        """
        async with asyncio.timeout(self._timeout_seconds), self._lock:
            connection = await self.connection()
            try:
                return await connection.fetch(self.render(statement), *args)
            except BaseException as error:
                self._failed(connection, error)
                raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Several statements, each to be rendered, in one transaction; raises as `fetch` does."""
        async with asyncio.timeout(self._timeout_seconds), self._lock:
            connection = await self.connection()
            try:
                async with connection.transaction():
                    yield connection
            except BaseException as error:
                self._failed(connection, error)
                raise

    def _failed(
        self, connection: "asyncpg.Connection[asyncpg.Record]", error: BaseException
    ) -> None:
        """Drop the connection unless the server merely refused the statement.

        Raises:
            asyncpg.InterfaceError: in place of an error that is asyncpg's own; see `as_cut_off`.
        """
        if not isinstance(error, asyncpg.PostgresError) or connection.is_closed():
            # Cut, timed out or cancelled in the middle: its state is unknown.
            self.drop()
        if (cut_off := as_cut_off(error)) is not None:
            raise cut_off from error

    def drop(self) -> None:
        """Cut the connection without waiting; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Close the connection, waiting a second at most."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=1)
            except DATABASE_ERRORS:
                connection.terminate()
