"""Applications whose code defines schedules."""

from collections.abc import Callable
from typing import Any

from pydantic import SecretStr

from service.db.engine import Database
from service.jobs import Registry
from service.schedules.declared import Declarations
from service.schedules.declaring import declare
from service.settings import Environment, Settings
from service.testing.settings import IsolatedSettings
from tests.conftest import TEST_SECRET

Define = Callable[[Declarations, Registry], None]


def settings_of(owner: str | None) -> Settings:
    """Of a process of that application."""
    return IsolatedSettings(
        environment=Environment.TEST, jwt_secret=SecretStr(TEST_SECRET), schedule_owner=owner
    )


async def start(database: Database, define: Define, *, owner: str | None = None) -> None:
    """What the start of a process does whose code is `define`."""
    declarations, handlers = Declarations(), Registry()
    define(declarations, handlers)
    async with database.sessions.begin() as session:
        await declare(session, declarations.definitions(handlers), settings_of(owner))


async def declare_one(database: Database, name: str, **values: Any) -> None:
    """Start a process whose code defines one schedule."""

    def define(declarations: Declarations, handlers: Registry) -> None:
        @declarations.schedule("@daily", name=name, **values)
        @handlers.handler("coded")
        async def handle(_: Any) -> None: ...

    await start(database, define)
