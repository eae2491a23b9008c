"""The jobs of a test, on a database of its own: with `service.testing`, and without its fixtures."""

from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncConnection

from service.db.engine import Database
from service.jobs import Registry
from service.schedules.declared import Declarations
from service.testing import Jobs, open_jobs


@pytest.fixture
def handlers() -> Registry:
    """Handlers of this test alone."""
    return Registry()


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is rolled back."""
    async with database.engine.connect() as connection:
        await connection.begin()
        yield connection
        await connection.rollback()


@pytest.fixture
def declared() -> Declarations:
    """Schedules of this test alone."""
    return Declarations()


@pytest.fixture
async def jobs(
    connection: AsyncConnection, handlers: Registry, declared: Declarations
) -> AsyncIterator[Jobs]:
    async with open_jobs(connection, handlers=handlers, schedules=declared) as jobs:
        yield jobs


@pytest.fixture
def errors_of() -> Callable[[str], float]:
    """How often the database failed an operation since the test began."""

    def count(operation: str) -> float:
        labels = {"operation": operation}
        return REGISTRY.get_sample_value("finmind_database_errors_total", labels) or 0.0

    before = {name: count(name) for name in ("job_logs", "progress", "settle", "heartbeat")}
    return lambda operation: count(operation) - before[operation]
