from typing import Any

import asyncpg
import pytest

from service.db.engine import Database
from service.jobs import JobStatus, Registry, process_due_jobs
from service.jobs.core.attempt import Stop
from service.jobs.core.job import LeaseToken
from service.jobs.worker import lease_clock
from service.jobs.worker.pipeline import Pipeline
from service.settings import Settings
from tests.jobs.claims import claim
from tests.jobs.conftest import Put, Quick
from tests.jobs.waiting import until_job


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


@pytest.mark.parametrize("kind", ["coroutine", "plain function"])
@pytest.mark.parametrize(
    "why",
    ["its lease has ended", "its lease ends before the next heartbeat", "it was told to stop"],
)
async def test_a_handler_does_not_begin_too_late(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick, kind: str, why: str
) -> None:
    """The process stood still between the claim and the handler: another may run the job by now."""
    ran = []
    if kind == "coroutine":

        @handlers.handler("mail")
        async def handle(payload: Any) -> None:
            ran.append(payload)
    else:
        handlers.handler("mail")(ran.append)
    job_id = await put("mail")
    settings = quick(lease_seconds=30, heartbeat_seconds=10)
    pipeline = Pipeline(database, settings, handlers=handlers)
    await pipeline.start()
    (job,) = await claim(database, ["mail"])
    pipeline.slots.take(job.queue)
    now = lease_clock.now()
    if why == "its lease has ended":
        pipeline.executor.start(job, lease_deadline=now)
    elif why == "its lease ends before the next heartbeat":
        pipeline.executor.start(job, lease_deadline=now + 10)
    else:
        pipeline.executor.start(job, lease_deadline=now + 30)
        (run,) = pipeline.executor.runs
        pipeline.executor.cancel(run, Stop.LEASE_UNSURE)
    row = await until_job(sql, job_id, where="status = 'PENDING'")
    assert (row["attempts"], row["lost_leases"], row["errors"]) == (0, 0, None)
    assert (ran, pipeline.slots.used) == ([], 0)
    await pipeline.stop(grace_seconds=0)


async def test_a_job_that_is_given_back_has_lost_as_many_leases_as_before(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    """Else poison that is given back now and then would kill more workers than it may."""
    handlers.handler("mail")(lambda _: None)
    job_id = await put("mail")
    await claim(database, ["mail"], lease_seconds=0)
    (job,) = await claim(database, ["mail"])
    pipeline = Pipeline(database, quick(), handlers=handlers)
    await pipeline.start()
    pipeline.slots.take(job.queue)
    pipeline.executor.start(job, lease_deadline=lease_clock.now())
    row = await until_job(sql, job_id, where="status = 'PENDING'")
    assert (row["attempts"], row["lost_leases"]) == (1, 1)
    await pipeline.stop(grace_seconds=0)
