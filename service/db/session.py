"""One way to run a statement inside a caller's transaction, whichever library holds it."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

# Quoted: asyncpg.Connection is generic for the type checker only.
CallerSession: TypeAlias = "AsyncSession | AsyncConnection | asyncpg.Connection[asyncpg.Record]"
"""What a caller may hold its transaction in."""


async def fetch(session: CallerSession, statement: str, *args: object) -> Sequence[Any]:
    """Run one statement ($1 parameters) in the caller's transaction; its rows.

    Raises:
        sqlalchemy.exc.DBAPIError | asyncpg.PostgresError: as the caller's library raises them.
    """
    if isinstance(session, AsyncSession):
        session = await session.connection()
    if isinstance(session, AsyncConnection):
        result = await session.exec_driver_sql(statement, args)
        return result.all() if result.returns_rows else ()
    return await session.fetch(statement, *args)
