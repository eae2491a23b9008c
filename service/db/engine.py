"""Connections: SQLAlchemy's pool for requests, one `Link` for each duty of a worker.

Both open their connections in one place, `Database.connect`, so that timeouts and session settings
are the same everywhere.
"""

from typing import Any, Final

import asyncpg
from sqlalchemy import ExceptionContext, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from service.db import schema
from service.db.connection import Link
from service.db.errors import as_cut_off
from service.db.hosts import Hosts
from service.db.json_values import read_json
from service.errors import ConfigurationError
from service.settings import DEFAULT_SCHEMA, Settings
from service.settings.database_url import DatabaseUrl

APPLICATION_NAME: Final = "finmind-jobs"

SETTLED_PLANS: Final = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
}
"""For a connection that runs the same few statements, each of which finds its rows by index.

The planner's statistics of the live jobs are always outdated: for every batch it would scan a table
that was empty a moment ago and now holds a million jobs, or fetch and sort all due jobs instead of
taking the first from the index, which has them in order.
"""


class Database:
    """One database: a pool for requests and transactions, single connections for duties."""

    def __init__(self, dsn: str, settings: Settings) -> None:
        self.dsn = dsn
        self._settings = settings
        url = _url(dsn)
        self.hosts = Hosts(url, timeout_seconds=settings.database_connect_timeout_seconds)
        self._application_name = url.application_name or APPLICATION_NAME
        self._schema: str | None = None
        cache_size = 100 if settings.database_prepared_statements else 0
        self.engine: AsyncEngine = create_async_engine(
            "postgresql+asyncpg://",
            connect_args={
                "async_creator_fn": self.connect,
                "prepared_statement_cache_size": cache_size,
            },
            pool_size=settings.database_pool_size,
            max_overflow=0,
            pool_timeout=2,
            pool_pre_ping=False,
            pool_use_lifo=True,
            pool_recycle=1800,
            json_deserializer=read_json,
            hide_parameters=True,  # an error's message is logged; its parameters are users' data
        )
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        event.listen(self.engine.sync_engine, "handle_error", _name_cut_off)
        self.sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(
            self.engine, expire_on_commit=False
        )
        if settings.database_schema != DEFAULT_SCHEMA:
            self._use_schema(settings.database_schema)

    @property
    def schema(self) -> str:
        """Where the tables are, known from the first connection on."""
        return self._schema or DEFAULT_SCHEMA

    async def find_schema(self) -> str:
        """Where the tables are; asked of the database unless it is known."""
        if self._schema is None:
            async with self.engine.connect():
                pass
        return self.schema

    def _use_schema(self, name: str) -> None:
        self._schema = name
        schema.remember(self.engine.sync_engine, name)

    async def connect(
        self, *, settled_plans: bool = False, statement_seconds: float | None = None, **_: Any
    ) -> "asyncpg.Connection[asyncpg.Record]":
        """Open one connection with the service's timeouts and session settings.

        With `settled_plans` every statement is planned once, and by index: see `SETTLED_PLANS`.
        PostgreSQL cancels a statement after `statement_seconds` or DATABASE_COMMAND_TIMEOUT_SECONDS,
        whichever comes first.

        Raises:
            OSError | TimeoutError | asyncpg.PostgresError: the server cannot be reached or refuses.
        """
        settings = self._settings
        server_settings = {"application_name": self._application_name}
        if settings.database_prepared_statements:
            # jit costs more than it saves on statements of a few hundred rows. PgBouncer refuses
            # start-up parameters that it does not know.
            server_settings |= {"jit": "off", "timezone": "UTC"}
            # A client that gives a statement up cuts its connection; the server would go on with it.
            seconds = settings.database_command_timeout_seconds
            bound = min(seconds, statement_seconds or seconds)
            server_settings["statement_timeout"] = str(max(1, int(bound * 1000)))
            if settled_plans:
                server_settings |= SETTLED_PLANS
        connection = await self.hosts.connect(
            command_timeout=settings.database_command_timeout_seconds,
            statement_cache_size=100 if settings.database_prepared_statements else 0,
            server_settings=server_settings,
        )
        try:
            if self._schema is None and (found := await schema.find(connection.fetch)):
                self._use_schema(found)
        except BaseException:
            connection.terminate()
            raise
        schema.remember(connection, self.schema)
        return connection

    def link(
        self,
        *,
        duty: str = "",  # noqa: ARG002 - of a connection that serves several, as in service.testing
        timeout_seconds: float | None = None,
        statement_seconds: float | None = None,
    ) -> Link:
        """A connection for one duty, opened on first use; see `Link`."""
        return Link(self, timeout_seconds=timeout_seconds, statement_seconds=statement_seconds)

    async def close(self) -> None:
        """Close the pool; links are closed by their owners."""
        await self.hosts.close()
        await self.engine.dispose()


def _url(dsn: str) -> DatabaseUrl:
    try:
        return DatabaseUrl.parse(dsn)
    except ValueError as error:
        raise ConfigurationError(f"DATABASE_URL {error}") from None


def _refuse_closed(connection: Any, *_: object) -> None:
    """Make the pool replace a connection that was closed meanwhile.

    The event loop has already seen the server close it: no round trip is needed.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError("closed by the server")


def _name_cut_off(context: ExceptionContext) -> None:
    """Raise an error of the database in place of asyncpg's own; see `as_cut_off`."""
    if (cut_off := as_cut_off(context.original_exception)) is not None:
        raise cut_off
