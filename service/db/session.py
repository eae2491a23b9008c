"""One way to run a statement inside a caller's transaction, whichever library holds it."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db import schema

# Quoted: asyncpg.Connection is generic for the type checker only.
CallerSession: TypeAlias = "AsyncSession | AsyncConnection | asyncpg.Connection[asyncpg.Record]"
"""What a caller may hold its transaction in."""


async def fetch(session: CallerSession, statement: str, *args: object) -> Sequence[Any]:
    """Run one statement ($1 parameters) in the caller's transaction; its rows.

    Raises:
        ConfigurationError: the database has no job tables.
        sqlalchemy.exc.DBAPIError | asyncpg.PostgresError: as the caller's library raises them.
    """
    if isinstance(session, AsyncSession):
        session = await session.connection()
    statement = schema.render(statement, await schema_of(session))
    return await _fetch(session, statement, *args)


async def schema_of(session: CallerSession) -> str:
    """The schema of the tables; from here on the engine of `session` renders it by itself."""
    if isinstance(session, AsyncSession):
        session = await session.connection()
    holder = (
        session.engine.sync_engine
        if isinstance(session, AsyncConnection)
        else getattr(session, "_con", session)  # a pool lends a new wrapper each time
    )
    return await schema.find_once(holder, lambda statement: _fetch(session, statement))


async def _fetch(
    session: "AsyncConnection | asyncpg.Connection[asyncpg.Record]", statement: str, *args: object
) -> Sequence[Any]:
    if isinstance(session, AsyncConnection):
        result = await session.exec_driver_sql(statement, args)
        return result.all() if result.returns_rows else ()
    return await session.fetch(statement, *args)
