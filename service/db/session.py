"""One way to run a statement inside a caller's transaction, whichever library holds it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db import schema
from service.errors import InvalidInput

# Quoted: asyncpg.Connection is generic for the type checker only.
CallerSession: TypeAlias = "AsyncSession | AsyncConnection | asyncpg.Connection[asyncpg.Record]"
"""What a caller may hold its transaction in."""

# Quoted for the same reason.
_Opened: TypeAlias = "AsyncConnection | asyncpg.Connection[asyncpg.Record]"


async def fetch(session: CallerSession, statement: str, *args: object) -> Sequence[Any]:
    """Run one statement ($1 parameters) in the caller's transaction; its rows.

    Raises:
        InvalidInput: `session` is something else.
        ConfigurationError: the database has no job tables.
        sqlalchemy.exc.DBAPIError | asyncpg.PostgresError: as the caller's library raises them.
    """
    opened = await _opened(session)
    return await _fetch(opened, schema.render(statement, await _schema_of(opened)), *args)


@asynccontextmanager
async def together(session: CallerSession) -> AsyncIterator[None]:
    """Have the statements of the block take effect together.

    They are part of the caller's transaction. An asyncpg connection that has none opened, and would
    commit each of them by itself, has one for the block.
    """
    opened = await _opened(session)
    if isinstance(opened, AsyncConnection) or opened.is_in_transaction():
        yield
        return
    async with opened.transaction():
        yield


async def bound_queries(session: AsyncSession, seconds: float) -> None:
    """Cancel every further statement of the transaction that takes longer than `seconds`."""
    await session.execute(
        text("SELECT set_config('statement_timeout', :milliseconds, true)"),
        {"milliseconds": str(max(1, int(seconds * 1000)))},
    )


async def schema_of(session: CallerSession) -> str:
    """The schema of the tables; from here on the engine of `session` renders it by itself."""
    return await _schema_of(await _opened(session))


async def _opened(session: CallerSession) -> _Opened:
    if isinstance(session, AsyncSession):
        session = await session.connection()
    if isinstance(session, AsyncConnection):
        if session.dialect.driver == "asyncpg":
            return session
        given = f"uses the driver {session.dialect.driver}"
    elif hasattr(session, "fetch"):
        return session
    else:
        given = f"is a {type(session).__module__}.{type(session).__qualname__}"
    raise InvalidInput(
        f"session {given}: expected a SQLAlchemy AsyncSession or AsyncConnection on "
        "postgresql+asyncpg://, or an asyncpg connection; with any other library enqueue in its "
        "transaction by SELECT finmind_jobs.enqueue_job(job_type, payload), or by POST /jobs",
        field="session",
    )


async def _schema_of(opened: _Opened) -> str:
    holder = (
        opened.engine.sync_engine
        if isinstance(opened, AsyncConnection)
        else getattr(opened, "_con", opened)  # a pool lends a new wrapper each time
    )
    return await schema.find_once(holder, lambda statement: _fetch(opened, statement))


async def _fetch(session: _Opened, statement: str, *args: object) -> Sequence[Any]:
    if isinstance(session, AsyncConnection):
        result = await session.exec_driver_sql(statement, args)
        return result.all() if result.returns_rows else ()
    return await session.fetch(statement, *args)
