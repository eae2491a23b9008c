"""The service over HTTP in this process, as the tests of the API have it, and as one of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import databases
from tests.api.conftest import api_settings, app, auth, client
from tests.processes.fleet import Fleet, Replica

__all__ = ["api_settings", "app", "auth", "client"]

JOBS_IN_EVERY_STATE = """
INSERT INTO background_jobs (job_type, status, next_run_at, finished_at)
SELECT 'demo.ok', status, now() + interval '1 year', CASE status WHEN 'PENDING' THEN NULL ELSE now() END
FROM unnest('{PENDING,DEAD_LETTER,FAILED,SUCCESS,CANCELLED}'::text[]) AS s(status)
  CROSS JOIN generate_series(1, 50) ORDER BY random()"""


@pytest.fixture
async def fleet(tmp_path: Path, pg_dsn: str) -> AsyncIterator[Fleet]:
    """Starts processes of the service; ends them, whatever happens."""
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.stop()


@pytest.fixture
async def replica(fleet: Fleet, pg_dsn: str) -> Replica:
    """One `serve` process on this test's database, with jobs in every state."""
    await databases.execute(pg_dsn, JOBS_IN_EVERY_STATE)
    (replica,) = await fleet.start(
        1,
        pg_dsn,
        DEMO_HANDLERS="true",
        UNKNOWN_TYPE_GRACE_SECONDS=0,
        LOG_FORMAT="json",
        # An attack fails to sign in all the time, and 401 is what it is to see.
        FAILED_SIGN_INS_PER_MINUTE=0,
        # Nor is it to see quotas alone.
        CALLER_NEW_NAMES_PER_HOUR=0,
        USER_REQUESTS_PER_MINUTE=0,
        USER_REMINDERS_PER_DAY=0,
    )
    return replica
