"""Schedules in the database, and the service over HTTP as the tests of the API have it."""

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from service.db.engine import Database
from service.schedules import managing, repository
from service.schedules.firing import Acted, act_on_due
from service.schedules.model import Definition, Schedule
from service.schedules.timing import Timing
from tests.api.conftest import api_settings, app, auth, client
from tests.jobs.conftest import handlers, quick, sql, start_worker

__all__ = [
    "api_settings", "app", "auth", "client", "handlers", "quick", "sql", "start_worker",
]  # fmt: skip

Add = Callable[..., Awaitable[Schedule]]
Act = Callable[..., Awaitable[Acted]]


@pytest.fixture
def add(database: Database, sql: "asyncpg.Connection[asyncpg.Record]") -> Add:
    """Makes a schedule: `await add("a", every_seconds=60, late=2.5, overlap=Overlap.ALLOW)`.

    With `late` it has a tick that was due so many seconds ago.
    """

    async def make(
        name: str = "a",
        *,
        cron: str | None = None,
        every_seconds: float | None = None,
        zone: str = "UTC",
        late: float | None = None,
        created_by: str | None = None,
        **values: Any,
    ) -> Schedule:
        given: dict[str, Any] = {"job_type": "t", "payload": {}, "queue": "default"} | values
        definition = Definition(timing=Timing(cron, every_seconds, zone), **given)
        async with database.sessions.begin() as session:
            await managing.create(
                session, name, definition, max_schedules=10_000, created_by=created_by
            )
        if late is not None:
            await sql.execute(
                "UPDATE schedules SET (next_tick_at, due_at) = (SELECT m, m FROM (SELECT"
                " clock_timestamp() - make_interval(secs => $2)) AS x (m)) WHERE name = $1",
                name, late,
            )  # fmt: skip
        async with database.sessions() as session:
            found = await repository.find(session, name)
        assert found is not None
        return found

    return make


@pytest.fixture
def act(database: Database) -> Act:
    """One look of a process at what is due: `await act()`."""

    async def look(limit: int = 500) -> Acted:
        async with database.sessions.begin() as session:
            return await act_on_due(session, limit=limit)

    return look
