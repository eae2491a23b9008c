"""An application on each library: it has a table `invoices`, and enqueues in its own transactions."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import psycopg
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from finmind_client.models import Enqueued, JobRef
from finmind_client.transaction import aenqueue, aenqueue_batch, enqueue, enqueue_batch

INSERT = "INSERT INTO public.invoices VALUES ({})"


@dataclass(frozen=True, slots=True)
class Shop:
    """The same of every library, without asyncio."""

    connection: Any
    transaction: Callable[[], AbstractContextManager[Any]]
    savepoint: Callable[[], AbstractContextManager[Any]]
    execute: Callable[[str], object]
    enqueue: Callable[..., JobRef]
    enqueue_batch: Callable[..., Enqueued]

    def insert(self, invoice: int) -> None:
        self.execute(INSERT.format(invoice))


def blocking(connection: Any, transaction: Any, savepoint: Any, execute: Any) -> Shop:
    def one(*arguments: Any, **options: Any) -> JobRef:
        return enqueue(connection, *arguments, **options)

    def many(*arguments: Any, **options: Any) -> Enqueued:
        return enqueue_batch(connection, *arguments, **options)

    return Shop(connection, transaction, savepoint, execute, one, many)


def of_asyncio(
    runner: asyncio.Runner, connection: Any, transaction: Any, savepoint: Any, execute: Any
) -> Shop:
    def one(*arguments: Any, **options: Any) -> JobRef:
        return runner.run(aenqueue(connection, *arguments, **options))

    def many(*arguments: Any, **options: Any) -> Enqueued:
        return runner.run(aenqueue_batch(connection, *arguments, **options))

    return Shop(
        connection,
        lambda: awaited(runner, transaction()),
        lambda: awaited(runner, savepoint()),
        lambda statement: runner.run(execute(statement)),
        one,
        many,
    )


@contextmanager
def awaited(runner: asyncio.Runner, manager: AbstractAsyncContextManager[Any]) -> Iterator[Any]:
    """An asynchronous context manager for code without asyncio."""

    async def enter() -> Any:
        return await manager.__aenter__()

    async def leave(error: BaseException | None) -> bool | None:
        trace = None if error is None else error.__traceback__
        return await manager.__aexit__(None if error is None else type(error), error, trace)

    entered = runner.run(enter())
    try:
        yield entered
    except BaseException as error:
        if not runner.run(leave(error)):
            raise
    else:
        runner.run(leave(None))


def _url(dsn: str, driver: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@contextmanager
def sqlalchemy_session(dsn: str) -> Iterator[Shop]:
    engine = sqlalchemy.create_engine(_url(dsn, "psycopg"), poolclass=NullPool)
    with Session(engine) as session:
        yield blocking(session, session.begin, session.begin_nested, _texts(session))


@contextmanager
def sqlalchemy_scoped_session(dsn: str) -> Iterator[Shop]:
    engine = sqlalchemy.create_engine(_url(dsn, "psycopg"), poolclass=NullPool)
    session = scoped_session(sessionmaker(engine))
    yield blocking(session, session.begin, session.begin_nested, _texts(session))
    session.remove()


@contextmanager
def sqlalchemy_connection(dsn: str) -> Iterator[Shop]:
    engine = sqlalchemy.create_engine(_url(dsn, "psycopg"), poolclass=NullPool)
    with engine.connect() as connection:
        yield blocking(connection, connection.begin, connection.begin_nested, _texts(connection))


def _texts(connection: Any) -> Callable[[str], Any]:
    return lambda statement: connection.execute(sqlalchemy.text(statement))


@contextmanager
def psycopg_connection(dsn: str) -> Iterator[Shop]:
    with psycopg.connect(dsn, row_factory=dict_row, cursor_factory=psycopg.RawCursor) as connection:
        yield blocking(
            connection, connection.transaction, connection.transaction, connection.execute
        )


@contextmanager
def django_connection(dsn: str) -> Iterator[Shop]:
    import django
    from django.conf import settings
    from django.db import connection, connections, transaction

    parts = conninfo_to_dict(dsn)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts["dbname"],
        "USER": parts["user"],
        "HOST": parts["host"],
        "PORT": parts.get("port", ""),
        "PASSWORD": parts.get("password", ""),
    }
    if not settings.configured:
        settings.configure(DATABASES={"default": database}, LOGGING_CONFIG=None)
        django.setup()
    connections["default"].settings_dict.update(database)

    def execute(statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    yield blocking(connection, transaction.atomic, transaction.atomic, execute)
    connections.close_all()


@contextmanager
def asyncpg_connection(dsn: str) -> Iterator[Shop]:
    with asyncio.Runner() as runner:
        pool = runner.run(_pool(dsn))
        connection = runner.run(_acquire(pool))
        yield of_asyncio(
            runner, connection, connection.transaction, connection.transaction, connection.execute
        )
        runner.run(pool.release(connection))
        runner.run(pool.close())


async def _pool(dsn: str) -> Any:
    # As applications do that store objects in jsonb of their own.
    async def initialise(connection: Any) -> None:
        await connection.set_type_codec(
            "jsonb", encoder=repr, decoder=eval, schema="pg_catalog", format="text"
        )

    return await asyncpg.create_pool(dsn, min_size=1, max_size=1, init=initialise)


async def _acquire(pool: Any) -> Any:
    return await pool.acquire()


@contextmanager
def psycopg_asyncio_connection(dsn: str) -> Iterator[Shop]:
    with asyncio.Runner() as runner:
        connection = runner.run(
            psycopg.AsyncConnection.connect(
                dsn, row_factory=dict_row, cursor_factory=psycopg.AsyncRawCursor
            )
        )
        yield of_asyncio(
            runner, connection, connection.transaction, connection.transaction, connection.execute
        )
        runner.run(connection.close())


def _sqlalchemy_asyncio(driver: str, of: Callable[[Any], Any]) -> Any:
    @contextmanager
    def shop(dsn: str) -> Iterator[Shop]:
        engine = create_async_engine(_url(dsn, driver), poolclass=NullPool)
        with asyncio.Runner() as runner:
            connection = of(engine)
            if isinstance(connection, AsyncConnection):
                runner.run(_start(connection))
            yield of_asyncio(
                runner, connection, connection.begin, connection.begin_nested, _texts(connection)
            )
            runner.run(connection.close())

    return shop


async def _start(connection: AsyncConnection) -> None:
    await connection.start()


SHOPS: dict[str, Callable[[str], AbstractContextManager[Shop]]] = {
    "sqlalchemy session": sqlalchemy_session,
    "sqlalchemy scoped session": sqlalchemy_scoped_session,
    "sqlalchemy connection": sqlalchemy_connection,
    "sqlalchemy asyncpg session": _sqlalchemy_asyncio("asyncpg", AsyncSession),
    "sqlalchemy psycopg session": _sqlalchemy_asyncio("psycopg", AsyncSession),
    "sqlalchemy asyncpg scoped session": _sqlalchemy_asyncio(
        "asyncpg", lambda engine: async_scoped_session(async_sessionmaker(engine), lambda: None)
    ),
    "sqlalchemy asyncpg connection": _sqlalchemy_asyncio(
        "asyncpg", lambda engine: engine.connect()
    ),
    "psycopg": psycopg_connection,
    "psycopg asyncio": psycopg_asyncio_connection,
    "asyncpg": asyncpg_connection,
    "django": django_connection,
}

ALIKE = {
    "sqlalchemy scoped session",
    "sqlalchemy connection",
    "sqlalchemy psycopg session",
    "sqlalchemy asyncpg scoped session",
}
"""Those that take hardly another way than one of the others."""
