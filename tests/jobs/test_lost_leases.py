import asyncpg

from service.db.engine import Database
from service.jobs import JobStatus, Registry, process_due_jobs
from service.jobs.model import LeaseToken
from service.settings import Settings

from .conftest import Put


async def test_a_claim_that_ends_a_job_without_running_it_is_no_attempt(
    database: Database,
    settings: Settings,
    handlers: Registry,
    put: Put,
    sql: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    handlers.handler("work")(lambda _: None)
    job_id = await put("work", max_retries=0)
    await sql.execute(
        "UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = $1,"
        " lease_until = now() - interval '1 second'",
        LeaseToken(7),
    )
    summary = await process_due_jobs(database, settings=settings, handlers=handlers)
    assert summary.dead_lettered == 1
    row = await sql.fetchrow("SELECT status, attempts FROM background_jobs WHERE id = $1", job_id)
    assert row is not None
    assert tuple(row) == (JobStatus.DEAD_LETTER, 1)
