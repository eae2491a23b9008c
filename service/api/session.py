"""The transaction of one request: committed before the answer is sent, rolled back on an error."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.queries import bound_queries
from service.settings import Settings


def settings_of(request: Request) -> Settings:
    """The settings of the application that serves `request`."""
    settings: Settings = request.app.state.service.settings
    return settings


@asynccontextmanager
async def transaction(request: Request) -> AsyncIterator[AsyncSession]:
    """A session that commits at the end of the block, unless it raises.

    Every statement in it may take `QUERY_TIMEOUT_SECONDS`; a slower one ends in a 503.
    """
    async with request.app.state.service.database.sessions() as session, session.begin():
        await bound_queries(session, settings_of(request).query_timeout_seconds)
        yield session


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """The same as a dependency."""
    async with transaction(request) as opened:
        yield opened


# scope="function": the default would commit after the answer has been sent, and a client that
# was told 200 could read its own write too early, or never. Routes ask for the caller before they
# ask for this: dependencies come in the order of parameters, and who is refused costs no connection.
Session = Annotated[AsyncSession, Depends(session, scope="function")]
AppSettings = Annotated[Settings, Depends(settings_of)]
