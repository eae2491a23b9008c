"""A fleet of replicas for a test, gone when it ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Replicas of the service, none of which outlives the test."""
    fleet = Fleet(tmp_path)
    try:
        yield fleet
    finally:
        fleet.stop()
