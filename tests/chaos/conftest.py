"""A server for all faults, and for each test a trial on a database of its own."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from service.db.engine import Database
from service.db.migrate import upgrade
from service.settings import Environment
from service.testing.server import server_directory
from service.testing.settings import IsolatedSettings
from tests.chaos.cluster import Cluster
from tests.chaos.trial import Trial
from tests.conftest import TEST_SECRET


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL with fsync on, which tests may stop."""
    with server_directory() as directory, Cluster.running(directory) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def migrated(cluster: Cluster) -> str:
    """The name of a migrated database that nobody connects to, to be copied."""

    async def build() -> str:
        settings = IsolatedSettings(environment=Environment.TEST, jwt_secret=SecretStr(TEST_SECRET))
        dsn = await cluster.new_database()
        database = Database(dsn, settings)
        try:
            await upgrade(database, settings)
        finally:
            await database.close()
        return urlsplit(dsn).path.removeprefix("/")

    return asyncio.run(build())


@pytest.fixture
async def trial(
    cluster: Cluster,
    migrated: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Trial]:
    """A trial named for its test; none of its processes outlives it."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-").removeprefix("test_")
    dsn = await cluster.new_database(template=migrated)
    trial = Trial(dsn, tmp_path_factory.mktemp("trial"), name=name)
    try:
        yield trial
    finally:
        trial.close()
        await cluster.drop(dsn)
