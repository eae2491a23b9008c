"""Fixtures for pytest: `pytest_plugins = ["service.testing.plugin"]` in the topmost conftest.py.

Nothing is started before a test asks for one of them. Each may be overridden in a conftest.py:
`jobs_connection` to run in the transaction of the application's own tests, `jobs_database_url` for another
server, `jobs_settings` for other settings.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import pytest

from service.db.session import CallerSession
from service.testing.jobs import Jobs, open_jobs
from service.testing.owner import connection_to
from service.testing.server import embedded_server, migrate
from service.testing.sync_jobs import SyncJobs, open_sync_jobs

URL_VARIABLE: Final = "JOBS_TEST_DATABASE_URL"


def _async_fixture(function: Callable[..., AsyncIterator[Any]]) -> Any:
    """A fixture that pytest-asyncio runs, or the plugin of anyio where there is no other."""
    try:
        import pytest_asyncio
    except ImportError:
        return pytest.fixture(function)
    return pytest_asyncio.fixture(function)


@pytest.fixture(scope="session")
def jobs_database_url() -> Iterator[str]:
    """A database with the schema of the jobs: that of JOBS_TEST_DATABASE_URL, or an embedded PostgreSQL's."""
    if url := os.environ.get(URL_VARIABLE):
        migrate(url)
        yield url
        return
    with embedded_server() as url:
        migrate(url)
        yield url


@pytest.fixture
def jobs_settings() -> dict[str, Any]:
    """Settings of the engine by their names in lower case: `{"default_max_retries": 1}`."""
    return {}


@_async_fixture
async def jobs_connection(jobs_database_url: str) -> AsyncIterator[CallerSession]:
    """The connection of a test, in a transaction that is rolled back at its end."""
    async with connection_to(jobs_database_url) as connection:
        yield connection


@_async_fixture
async def jobs(
    jobs_connection: CallerSession, jobs_settings: dict[str, Any]
) -> AsyncIterator[Jobs]:
    """The jobs of a test: `await jobs.run_due()`, `jobs.move_clock(minutes=5)`, `jobs.assert_enqueued(…)`."""
    async with open_jobs(jobs_connection, **jobs_settings) as opened:
        yield opened


@pytest.fixture
def sync_jobs(jobs_database_url: str, jobs_settings: dict[str, Any]) -> Iterator[SyncJobs]:
    """The same for tests that are plain functions, on a connection of its own: `sync_jobs.run_due()`."""
    with open_sync_jobs(jobs_database_url, **jobs_settings) as opened:
        yield opened
