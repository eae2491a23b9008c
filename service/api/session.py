"""The transaction of one request: committed before the answer is sent, rolled back on an error."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import Depends, Request
from sqlalchemy import PoolProxiedConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.errors import DATABASE_ERRORS
from service.db.session import bound_queries
from service.settings import Settings

DEADLINE_GRACE_SECONDS: Final = 0.5
"""What a request has beyond the time of one statement: one that is merely slow is then cancelled by
the server, and keeps its connection."""


def settings_of(request: Request) -> Settings:
    """The settings of the application that serves `request`."""
    settings: Settings = request.app.state.service.settings
    return settings


def new_deadline(settings: Settings) -> float:
    """By when the database must have answered a request that begins now."""
    seconds = settings.query_timeout_seconds + DEADLINE_GRACE_SECONDS
    return asyncio.get_running_loop().time() + seconds


def deadline_of(request: Request) -> float:
    """By when, on the clock of the event loop, the database must have answered `request`."""
    deadline: float = request.scope["deadline"]
    return deadline


@asynccontextmanager
async def transaction(
    request: Request, *, own_deadline: bool = False
) -> AsyncIterator[AsyncSession]:
    """A session that commits at the end of the block, unless it raises.

    Every statement in it may take `QUERY_TIMEOUT_SECONDS`, by the server's clock, and all of it
    what the request has left, or with an `own_deadline` the time of a request that begins now.

    Raises:
        TimeoutError: the time was over and the connection was cut. A commit that was on its way may
            or may not have been made.
    """
    settings = settings_of(request)
    deadline = new_deadline(settings) if own_deadline else deadline_of(request)
    cut = _Cut()
    timer: asyncio.TimerHandle | None = None
    try:
        async with request.app.state.service.database.sessions() as session, session.begin():
            async with asyncio.timeout_at(deadline):
                connection = await session.connection()
            raw = await connection.get_raw_connection()
            timer = asyncio.get_running_loop().call_at(deadline, cut, raw)
            await bound_queries(session, settings.query_timeout_seconds)
            yield session
    except (SQLAlchemyError, *DATABASE_ERRORS) as error:
        if cut.done:
            raise TimeoutError from error
        raise
    finally:
        if timer is not None:
            timer.cancel()


class _Cut:
    """Cuts a connection: the statement that waits on it fails at once.

    If its task were cancelled instead, SQLAlchemy would close the session with a server that does not
    answer, and wait for it.
    """

    def __init__(self) -> None:
        self.done = False

    def __call__(self, connection: PoolProxiedConnection) -> None:
        driver = connection.driver_connection
        if driver is not None:
            self.done = True
            driver.terminate()


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """The same as a dependency."""
    async with transaction(request) as opened:
        yield opened


# scope="function": the default would commit after the answer has been sent, and a client that
# was told 200 could read its own write too early, or never. Routes ask for the caller before they
# ask for this: dependencies come in the order of parameters, and who is refused costs no connection.
Session = Annotated[AsyncSession, Depends(session, scope="function")]
AppSettings = Annotated[Settings, Depends(settings_of)]
