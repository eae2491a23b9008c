"""The libraries whose connections can enqueue: each is known by its classes, and imported by whoever uses it."""

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from finmind_client.transaction_calls import EnqueueBySql, Rows

if TYPE_CHECKING:
    import asyncpg
    import psycopg
    from asyncpg.pool import PoolConnectionProxy
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.utils.connection import ConnectionProxy
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    BlockingConnection: TypeAlias = (
        Session
        | scoped_session[Any]
        | Connection
        | psycopg.Connection[Any]
        | BaseDatabaseWrapper
        | ConnectionProxy
    )
    AsyncioConnection: TypeAlias = (
        AsyncSession
        | async_scoped_session[Any]
        | AsyncConnection
        | psycopg.AsyncConnection[Any]
        | asyncpg.Connection[Any]
        | PoolConnectionProxy[Any]
    )

T = TypeVar("T")
Blocking = Callable[[Any, EnqueueBySql], Rows]
Asyncio = Callable[[Any, EnqueueBySql], Awaitable[Rows]]


def blocking_driver(connection: object) -> Blocking:
    """What makes the call on such a connection.

    Raises:
        TypeError: it is none of those known here.
    """
    run = _find(connection, _BLOCKING)
    if run is None:
        name = _name(connection)
        if _find(connection, _ASYNCIO) is not None:
            raise TypeError(f"{name} is a connection of asyncio: await `aenqueue(…)`")
        raise TypeError(
            f"{name} cannot enqueue: expected what your transaction is open on, a Session or Connection of"
            " SQLAlchemy, a Connection of psycopg 3, or one of Django"
        )
    return run


def asyncio_driver(connection: object) -> Asyncio:
    """The same for asyncio."""
    run = _find(connection, _ASYNCIO)
    if run is None:
        name = _name(connection)
        if _find(connection, _BLOCKING) is not None:
            raise TypeError(f"{name} is no connection of asyncio: call `enqueue(…)`")
        raise TypeError(
            f"{name} cannot enqueue: expected what your transaction is open on, an AsyncSession or AsyncConnection"
            " of SQLAlchemy, an AsyncConnection of psycopg 3, or a Connection of asyncpg"
        )
    return run


def _sqlalchemy(session: Any, call: EnqueueBySql) -> Rows:
    from sqlalchemy import Connection, text

    connection = session if isinstance(session, Connection) else session.connection()
    _expect_postgresql(connection.dialect.name)
    return connection.execute(text(call.statement(":jobs")), {"jobs": call.jobs}).all()


async def _sqlalchemy_asyncio(session: Any, call: EnqueueBySql) -> Rows:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncConnection

    connection = session if isinstance(session, AsyncConnection) else await session.connection()
    _expect_postgresql(connection.dialect.name)
    result = await connection.execute(text(call.statement(":jobs")), {"jobs": call.jobs})
    return result.all()


def _psycopg(connection: Any, call: EnqueueBySql) -> Rows:
    from psycopg import Cursor
    from psycopg.rows import tuple_row

    # Not by `connection.cursor()`: the application may have one that writes parameters otherwise.
    with Cursor(connection, row_factory=tuple_row) as cursor:
        return cursor.execute(call.statement("%s"), [call.jobs]).fetchall()


async def _psycopg_asyncio(connection: Any, call: EnqueueBySql) -> Rows:
    from psycopg import AsyncCursor
    from psycopg.rows import tuple_row

    async with AsyncCursor(connection, row_factory=tuple_row) as cursor:
        await cursor.execute(call.statement("%s"), [call.jobs])
        return await cursor.fetchall()


async def _asyncpg(connection: Any, call: EnqueueBySql) -> Rows:
    return await connection.fetch(call.statement("$1"), call.jobs)  # type: ignore[no-any-return]


def _django(connection: Any, call: EnqueueBySql) -> Rows:
    _expect_postgresql(connection.vendor)
    with connection.cursor() as cursor:
        cursor.execute(call.statement("%s"), [call.jobs])
        return cursor.fetchall()  # type: ignore[no-any-return]


def _expect_postgresql(name: str) -> None:
    if name != "postgresql":
        raise TypeError(
            f"The connection is to {name}: expected one to the PostgreSQL of the service"
        )


_BLOCKING: Final[Mapping[tuple[str, str], Blocking]] = {
    ("sqlalchemy.orm", "Session"): _sqlalchemy,
    ("sqlalchemy.orm", "scoped_session"): _sqlalchemy,
    ("sqlalchemy", "Connection"): _sqlalchemy,
    ("psycopg", "Connection"): _psycopg,
    ("django.db.backends.base.base", "BaseDatabaseWrapper"): _django,
    ("django.utils.connection", "ConnectionProxy"): _django,
}
_ASYNCIO: Final[Mapping[tuple[str, str], Asyncio]] = {
    ("sqlalchemy.ext.asyncio", "AsyncSession"): _sqlalchemy_asyncio,
    ("sqlalchemy.ext.asyncio", "async_scoped_session"): _sqlalchemy_asyncio,
    ("sqlalchemy.ext.asyncio", "AsyncConnection"): _sqlalchemy_asyncio,
    ("psycopg", "AsyncConnection"): _psycopg_asyncio,
    ("asyncpg", "Connection"): _asyncpg,
    ("asyncpg.pool", "PoolConnectionProxy"): _asyncpg,
}


def _find(connection: object, known: Mapping[tuple[str, str], T]) -> T | None:
    for (module, name), run in known.items():
        # Whoever has such a connection has imported its library.
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(connection, kind):
            return run
    return None


def _name(connection: object) -> str:
    kind = type(connection)
    return f"{kind.__module__}.{kind.__qualname__}"
