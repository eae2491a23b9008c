"""Due jobs whose type nobody serves: FAILED after a grace, and not while some worker serves it."""

from datetime import UTC, datetime
from typing import Any

from service.db.engine import Database
from service.jobs import Registry, process_due_jobs
from tests.jobs.conftest import Events, Put, Quick, StartWorker
from tests.jobs.waiting import until, until_ended, until_true

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


async def test_a_type_that_nobody_serves_fails_after_the_grace(
    put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    job_id = await put("unknown.grace", unique_key="k")
    await start_worker(unknown_type_grace_seconds=0.5)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("FAILED", 0)
    assert job["last_error"] == "No handler registered for job type: unknown.grace"
    assert (job["finished_at"] - job["next_run_at"]).total_seconds() >= 0.5
    (entry,) = job["errors"]
    assert (entry["event"], entry["message"]) == ("no_handler", job["last_error"])
    await until_true(lambda: events("failed", "unknown.grace", "no_handler") == 1)


async def passes(sql: Any, put: Put) -> None:
    """Wait until the leader has looked for unserved types: one that is one has gone."""
    await until_ended(sql, await put("nobodys", run_at=LONG_AGO))


async def test_a_type_that_the_leader_serves_is_left(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("served")
    async def handle(payload: Any) -> None: ...

    job_id = await put("served", queue="not.ours")
    await start_worker(worker_queues="default", unknown_type_grace_seconds=0)
    await passes(sql, put)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id) == "PENDING"


async def test_a_type_that_another_live_worker_serves_is_left(
    put: Put, sql: Any, start_worker: StartWorker
) -> None:
    theirs = Registry()

    @theirs.handler("served")
    async def handle(payload: Any) -> None: ...

    await start_worker(unknown_type_grace_seconds=0)
    await passes(sql, put)
    # It serves the type, on another queue: the job stays.
    await start_worker(handlers=theirs, worker_queues="elsewhere")
    job_id = await put("served", run_at=LONG_AGO)
    await passes(sql, put)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id) == "PENDING"


async def test_a_type_is_still_served_for_the_grace_after_its_worker_stopped(
    put: Put, sql: Any, start_worker: StartWorker
) -> None:
    theirs = Registry()

    @theirs.handler("served")
    async def handle(payload: Any) -> None: ...

    await start_worker(unknown_type_grace_seconds=2)
    await passes(sql, put)
    worker = await start_worker(handlers=theirs)
    await worker.stop()
    job_id = await put("served", run_at=LONG_AGO)
    await passes(sql, put)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id) == "PENDING"
    job = await until_ended(sql, job_id)
    stopped_at = await sql.fetchval("SELECT max(stopped_at) FROM job_workers")
    assert (job["finished_at"] - stopped_at).total_seconds() >= 2


async def test_a_job_that_is_not_due_is_left(put: Put, sql: Any, start_worker: StartWorker) -> None:
    job_id = await put("unknown.later", delay_seconds=3600)
    await start_worker(unknown_type_grace_seconds=0)
    await passes(sql, put)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id) == "PENDING"


async def test_an_unserved_job_behind_served_ones_is_found(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("served")
    async def handle(payload: Any) -> None: ...

    await sql.execute(
        "INSERT INTO background_jobs (job_type, queue)"
        " SELECT 'served', 'elsewhere' FROM generate_series(1, 1000)"
    )
    job_id = await put("unknown.behind", queue="elsewhere")
    await start_worker(worker_queues="default", unknown_type_grace_seconds=0)
    assert (await until_ended(sql, job_id))["status"] == "FAILED"
    assert await sql.fetchval("SELECT count(*) FROM jobs_live") == 1000


async def test_a_single_pass_fails_it_at_once(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    job_id = await put("unknown.now")
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert (summary.processed, summary.failed) == (1, 1)
    row = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert (row["status"], row["last_error"]) == (
        "FAILED",
        "No handler registered for job type: unknown.now",
    )


async def test_a_single_pass_leaves_a_type_that_a_live_worker_serves(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    theirs = Registry()

    @theirs.handler("served")
    async def handle(payload: Any) -> None: ...

    await start_worker(handlers=theirs, worker_queues="elsewhere")
    job_id = await put("served")
    summary = await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert summary.processed == 0
    assert await until(
        lambda: sql.fetchval("SELECT status = 'PENDING' FROM jobs_live WHERE id = $1", job_id)
    )
