"""A server for all faults, and for each test a trial on a database of its own."""

import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.trial import Trial


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL with fsync on, which tests may stop."""
    # Not in pytest's folder: every other pytest that starts takes the server's user out of that.
    with (
        tempfile.TemporaryDirectory(prefix="finmind-") as directory,
        Cluster.running(Path(directory)) as cluster,
    ):
        yield cluster


@pytest.fixture
async def trial(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[Trial]:
    """A trial named for its test; none of its processes outlives it."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-").removeprefix("test_")
    dsn = await cluster.new_database()
    trial = Trial(dsn, tmp_path_factory.mktemp("trial"), name=name)
    try:
        yield trial
    finally:
        trial.close()
        await cluster.drop(dsn)
