"""A table full of dead letters, and operations on them, carried out by workers of this process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from service.audit import Actor
from service.db.engine import Database
from service.jobs import Registry
from service.jobs.core.bulk_action import BulkAction, Verb
from service.jobs.core.filters import JobFilters
from service.operations import starting
from service.operations.model import Operation, OperationState
from service.operations.runner import bind
from service.operations.starting import OperationRequest
from service.settings import Settings
from tests.api.conftest import api_settings, app, auth, client
from tests.jobs.conftest import StartWorker, handlers, quick, sql, start_worker

__all__ = [
    "api_settings", "app", "auth", "client", "handlers", "quick", "sql", "start_worker",
]  # fmt: skip

ADA = Actor("ada", "request-1", "127.0.0.1")

Fill = Callable[..., Awaitable[None]]
Start = Callable[..., Awaitable[Operation]]
Until = Callable[..., Awaitable[Operation]]

_FILL = """
WITH made AS (
  INSERT INTO background_jobs (job_type, status, finished_at, queue, payload, attempts, last_error,
    unique_key)
  SELECT $1, $2, CASE WHEN $2 IN ('PENDING', 'RUNNING') THEN NULL ELSE clock_timestamp() END,
    'work', jsonb_build_object('n', n), 4, 'ValueError: no', CASE WHEN $4 THEN 'key-' || n END
  FROM generate_series(1, $3::int) AS n RETURNING queue, job_type, status, finished_at)
INSERT INTO job_stats SELECT queue, job_type, status, (finished_at AT TIME ZONE 'UTC')::date, count(*)
FROM made WHERE finished_at IS NOT NULL GROUP BY 1, 2, 3, 4"""


@pytest.fixture
def fill(sql: "asyncpg.Connection[asyncpg.Record]") -> Fill:
    """Put jobs into the table: `await fill(100, status="DEAD_LETTER", job_type="mail")`."""

    async def put(
        count: int, *, status: str = "DEAD_LETTER", job_type: str = "mail", keyed: bool = False
    ) -> None:
        await sql.execute(_FILL, job_type, status, count, keyed)

    return put


@pytest.fixture
def start(database: Database, settings: Settings) -> Start:
    """Start an operation: `await start(Verb.MOVE, queue="slow", job_type="mail", rate=5)`."""

    async def begin(
        verb: Verb,
        filters: JobFilters | None = None,
        *,
        canary: Any = None,
        rate: float | None = None,
        **values: Any,
    ) -> Operation:
        request = OperationRequest(
            action=BulkAction(verb=verb, **values),
            filters=filters or JobFilters(),
            all_jobs=True,
            rate=rate,
            canary=canary,
            reason="a test",
        )
        async with database.sessions.begin() as session:
            return await starting.start(session, request, settings, actor=ADA)

    return begin


@pytest.fixture
def until(database: Database) -> Until:
    """Wait until an operation is in one of some states: `await until(operation, "done")`."""

    async def wait(operation: Operation, *states: str, seconds: float = 30) -> Operation:
        async with asyncio.timeout(seconds):
            while True:
                async with database.sessions() as session:
                    found = await starting.read(session, operation.id)
                if found.state in states:
                    return found
                assert found.state is OperationState.RUNNING, found
                await asyncio.sleep(0.02)

    return wait


@pytest.fixture
async def operator(
    database: Database, settings: Settings, handlers: Registry, start_worker: StartWorker
) -> None:
    """A worker that carries operations out, and nothing else."""
    bind(database, settings, to=handlers)
    await start_worker()
