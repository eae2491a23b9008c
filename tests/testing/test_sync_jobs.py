"""Tests that are plain functions have the same."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from service.jobs import JobContext, Registry, enqueue
from service.testing import open_sync_jobs


def test_a_plain_function_tests_jobs_as_well(pg_dsn: str) -> None:
    handlers = Registry()

    @handlers.handler("flaky")
    def flaky(payload: dict[str, Any], ctx: JobContext) -> int:
        if ctx.attempt == 1:
            raise OSError("away")
        return ctx.attempt

    async def place(connection: AsyncConnection) -> None:
        await enqueue(connection, "flaky", {"order": 7})

    with open_sync_jobs(pg_dsn, handlers=handlers, default_max_retries=1) as jobs:
        jobs.run(place)
        job = jobs.assert_enqueued("flaky", {"order": 7})
        with pytest.raises(OSError, match="away"):
            jobs.run_due()
        jobs.assert_not_enqueued("flaky", status="SUCCESS")
        jobs.move_clock(to=jobs.get(job.id).due_at)
        assert [ran.result for ran in jobs.run_due()] == [2]
        assert jobs.run_for(hours=1) == []
        assert [one.status for one in jobs.enqueued()] == ["SUCCESS"]
    with open_sync_jobs(pg_dsn, handlers=handlers) as jobs:
        jobs.assert_not_enqueued()
